"""The certificate of reproduction counts every number right, names those outside, and says what machine made them."""

import json
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from cartoonlib import files
from cartoonlib.files import InputError
from cartoonlib.report import certificate, execute, verify


def measurement(metric, value, variant="full method"):
    names = {"style": "drawn", "variant": variant, "group": "style", "metric": metric, "features": "-", "code": "1234"}
    return names | {"n": 9, "steps": 8, "value": value, "low": value - 0.25, "high": value + 0.5}


ENVIRONMENT = {"device": "A processor, 2 threads", "precision": "bfloat16", "torch": "2.14.1", "date": "2026-01-01"}
RESULTS = {
    "train": {"drawn": {"title": "drawn", "seconds": 2.5, "last": {"step": 8, "content": 0.5, "seconds": 2.5}}},
    "metrics": [measurement(metric, 1.0) for metric in ("style_distance", "kid_cartoon", "mesh", "milliseconds")],
}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with the results of a profile `mine` in git; its files may be altered."""
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    (tmp_path / "results" / "mine").mkdir(parents=True)
    for name, content in RESULTS.items():
        keep(name, content)
    author = ["-c", "user.name=Me", "-c", "user.email=me@example.org"]
    for arguments in (["init", "-q"], ["add", "results"], [*author, "commit", "-q", "-m", "Results"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def keep(name, content, **environment):
    text = json.dumps({"environment": ENVIRONMENT | environment, name: content})
    (files.RESULTS / "mine" / f"{name}.json").write_text(text, encoding="utf-8")


def altered(**values):
    """The measurements with other values of some metrics, in their old intervals."""
    return [row | {"value": values.get(row["metric"], row["value"])} for row in RESULTS["metrics"]]


def test_numbers_inside_and_outside_of_their_intervals_are_counted_and_those_outside_named(clone):
    keep("metrics", altered(style_distance=1.5, kid_cartoon=0.74, milliseconds=9.0))
    text = certificate.write("mine")
    assert "**3 numbers: 1 equal to the bit, 1 inside the printed interval, 1 outside.**" in text
    assert "| drawn, full method, style, kid_cartoon | 1 [0.75, 1.5] | 0.74 [0.75, 1.5] |" in text
    assert "style_distance" not in text and "milliseconds" not in text
    assert "Of 2 other numbers (counts, losses as they were logged), 2 are equal to the bit." in text
    assert (clone / "results/mine/certificate.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("value, outside", [(0.75, 0), (0.7499, 1), (1.5, 0), (1.5001, 1)])
def test_both_ends_belong_to_the_interval(value, outside, clone):
    keep("metrics", altered(mesh=value))
    wanted = f"2 equal to the bit, {1 - outside} inside the printed interval, {outside} outside"
    assert wanted in certificate.write("mine")


def test_the_last_bit_of_a_value_or_of_its_interval_counts(clone):
    keep("metrics", altered(mesh=1.0 + 2**-52))
    assert "2 equal to the bit, 1 inside the printed interval, 0 outside" in certificate.write("mine")
    rows = altered()
    rows[0] = rows[0] | {"low": 0.75 + 2**-52}
    keep("metrics", rows)
    assert "2 equal to the bit, 1 inside the printed interval, 0 outside" in certificate.write("mine")


def test_other_numbers_are_equal_or_named_but_seconds_are_no_results(clone):
    run = RESULTS["train"]["drawn"]
    keep("train", {"drawn": run | {"seconds": 9.0, "last": {"step": 8, "content": 0.25, "seconds": 9.0}}})
    text = certificate.write("mine")
    assert "3 equal to the bit, 0 inside the printed interval, 0 outside" in text
    assert "Of 2 other numbers (counts, losses as they were logged), 1 are equal to the bit." in text
    assert "Other numbers that differ: train train drawn last content." in text


def test_numbers_that_one_side_lacks_are_named(clone):
    keep("metrics", [*altered()[1:], measurement("mesh", 2.0, "without mesh")])
    text = certificate.write("mine")
    assert "**2 numbers: 2 equal" in text
    assert "In git alone: drawn, full method, style, style_distance.\n" in text
    assert "Here alone: drawn, without mesh, style, mesh.\n" in text


def test_at_most_a_dozen_are_named(clone):
    keep("metrics", [*altered(), *(measurement("mesh", 2.0, f"row {i}") for i in range(20))])
    assert "drawn, row 11, style, mesh; and 8 more.\n" in certificate.write("mine")


def test_what_machine_precision_and_versions_differ_is_said(clone):
    keep("metrics", RESULTS["metrics"], device="A processor, 4 threads", torch="2.15.0", date="2027-01-01")
    text = certificate.write("mine")
    assert "| device | A processor, 2 threads | A processor, 2 threads and A processor, 4 threads |\n" in text
    assert "| torch | 2.14.1 | 2.14.1 and 2.15.0 |\n" in text
    assert "precision |" not in text and "date |" not in text
    keep("metrics", altered(mesh=1.25))
    assert "Machine, precision and versions are the same." in certificate.write("mine")


def test_nothing_to_compare_is_one_sentence_and_no_certificate(clone):
    assert certificate.write("mine") == "The results of mine are the files of git: make reproduce PROFILE=mine makes " \
        "your own."  # fmt: skip
    assert certificate.write("yours").startswith("No results of profile yours are in git, so there is nothing")
    assert not list(clone.glob("results/*/certificate.md"))


def test_outside_of_a_clone_no_results_are_in_git(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert certificate.write("quick").startswith("No results of profile quick are in git")


def test_a_missing_result_file_is_one_sentence(clone):
    (clone / "results/mine/metrics.json").unlink()
    with pytest.raises(InputError, match="results/mine/metrics.json is missing: make reproduce PROFILE=mine makes it"):
        certificate.write("mine")


def test_the_page_ends_with_it(clone):
    keep("metrics", altered(mesh=1.25))
    certificate.write("mine")
    path = clone / "results/mine/notebooks/01_data.ipynb"
    path.parent.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")], metadata=kernel), path)
    page = execute.join("mine").read_text(encoding="utf-8")
    assert page.index("Certificate of reproduction")
    assert "2 equal to the bit, 1 inside" in page


def test_the_command_ends_with_it(clone, monkeypatch, capsys):
    monkeypatch.setattr(verify, "checks", lambda: iter([("README.md", [])]))
    keep("metrics", altered(mesh=1.25))
    verify.main("mine")
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "ok: README.md" and lines[-1] == "Machine, precision and versions are the same."
