"""The command around the notebooks: what it says when something is wrong, and that the README tells the truth."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import TINY
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from cartoonlib import files, networks
from cartoonlib.dataset.sets import Sets
from cartoonlib.files import InputError
from cartoonlib.images import center_crop
from cartoonlib.report import execute as execution
from cartoonlib.report import figures, metrics, tables
from cartoonlib.report.book import Report, commit
from cartoonlib.report.execute import execute, reproduce, without_traces
from cartoonlib.report.render import shown
from cartoonlib.runs import training

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in cells], metadata=KERNEL), path)
    return path


def folder_of(path, count):
    path.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((80, 80), Image.Resampling.NEAREST).save(path / f"{i}.png")
    return str(path)


def test_own_folders_are_named_by_their_last_part_and_must_hold_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROCESSED", tmp_path / "processed")
    styles = [folder_of(tmp_path / "My Comics", 12), folder_of(tmp_path / "b" / "strips", 12)]
    own = Report("smoke", {"styles": styles, "test_fraction": 0.5})
    assert list(own.sets.cartoons) == ["my_comics", "strips"]
    same = Report("smoke", {"styles": [styles[0], styles[0]], "test_fraction": 0.5})
    with pytest.raises(InputError, match="the same name"):
        same.sets.cartoons
    few = Report("smoke", {"styles": [folder_of(tmp_path / "few", 3)], "test_fraction": 0.5})
    with pytest.raises(InputError, match="2 of each are needed"):
        few.sets.cartoons


def test_a_set_of_the_other_kind_is_refused():
    with pytest.raises(InputError, match="toon_head is a set of cartoons, not of faces"):
        Report("smoke", {"faces": ["toon_head"]}).sets.faces


def test_figures_show_public_domain_first_and_no_face_that_was_trained_on(face_set, monkeypatch):
    manifest = [entry | {"licence": "public domain" if i == 5 else "MIT"} for i, entry in enumerate(face_set.manifest)]
    faces = dataclasses.replace(face_set, manifest=manifest)
    monkeypatch.setattr(Sets, "_prepare", lambda self, source, limit, kind: faces)
    held_out = center_crop(faces.images[[5, 4]], TINY.size)
    assert (Report(TINY).sets.shown == held_out).all()
    assert len(Report(TINY.replace(shown="embedded_faces")).sets.shown) == len(faces.images)
    with pytest.raises(InputError, match="not trained on"):
        Report(TINY.replace(shown="embedded_faces", faces=("embedded_faces",))).sets.shown


@pytest.mark.parametrize("shown, folder", [("", "figures"), ("embedded_faces", "figures/private")])
def test_pictures_of_sets_that_are_not_shown_stay_out_of_the_notebook(
    shown, folder, tmp_path, monkeypatch, face_photos
):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    displayed = []
    monkeypatch.setattr("IPython.display.display", displayed.append)
    Report(TINY.replace(shown=shown)).figure("faces", figures.gallery({"faces": face_photos}), of_the_sets=True)
    assert (tmp_path / "tiny" / folder / "faces.png").is_file() and len(displayed) == (shown == "")


def test_a_published_generator_draws_what_the_run_does_and_has_a_card(
    tmp_path, monkeypatch, face_set, cartoon_set, face_photos
):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    run = training.train(TINY, tmp_path / "tiny" / "runs", face_set, cartoon_set, "drawn", progress=lambda line: None)
    report = Report(TINY)
    row = {"style": "drawn", "variant": "full method", "group": "style", "features": "-", "steps": 8, "seed": 0, "n": 2}
    limits = {"value": 1.0, "low": 0.5, "high": 2.0}
    report.numbers("metrics", [row | limits | {"metric": metric} for metric in tables.PAGE_METRICS])
    about = {"title": "faces", "licence": "public domain", "train": 4}
    report.numbers("data", {"faces": about, "drawn": about | {"title": "cartoons"}})
    start = {"steps": 7, "seconds": 1.0, "anchor": [0.5, 0.1]}
    report.numbers("pretrain", {"steps": 6, "starts": {"drawn": start}})
    report.numbers("train", {"drawn": run.summary | {"weights": {"texture": 3.5, "surface": 0.25}}})
    path = report.publish("drawn", run)
    published = networks.load_generator(path)
    difference = metrics.generate(published, face_photos).astype(int) - metrics.generate(run.generator(), face_photos)
    assert abs(difference).max() <= 2 and path.stat().st_size < 2.1 * networks.count_parameters(networks.Generator())
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card and "public domain" in card and "8 of training" in card
    assert "| texture 3.5, surface 0.25 |" in card
    assert "7 of the structure start" in card and "warmth 0: what the structure start taught, set by hand" in card


def measurement(variant, group, metric, value):
    about = {"style": "drawn", "variant": variant, "group": group, "steps": 8, "seed": 0, "n": 2, "features": "-"}
    return about | {"metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1}


def test_rows_of_the_ablation_table_are_left_out_of_the_table_of_styles():
    rows = [measurement("full method", "style", metric, 0.5) for metric in tables.PAGE_METRICS]
    rows += [measurement("original", "original", metric, 0.75) for metric in tables.PAGE_METRICS]
    assert shown("styles", rows).splitlines()[2:] == [
        "| full method |" + len(tables.PAGE_METRICS) * " 0.5 [0.4, 0.6] |"
    ]


def test_a_metric_that_was_not_measured_has_no_column():
    rows = [measurement("full method", "style", metric, 0.5) for metric in tables.PAGE_METRICS]
    older = [row for row in rows if row["metric"] != "face_style_distance"]
    titles = [shown("styles", found).splitlines()[0].count("|") for found in (rows, older)]
    assert titles == [len(tables.PAGE_METRICS) + 2, len(tables.PAGE_METRICS) + 1]


def test_differences_say_which_are_not_resolved():
    rows = [measurement("original", "original", "flatness", value) | {"reference": "full"} for value in (0.2, 0.05)]
    rows[1] |= {"metric": "landmark_error"}
    line = shown("differences", rows).splitlines()[-1]
    assert line == "| original | full | +0.2 [+0.1, +0.3] | +0.05 [-0.05, +0.15] (not resolved) |"


def test_an_unknown_profile_ends_with_one_sentence():
    result = subprocess.run(
        [sys.executable, "-m", "cartoonlib.report", "reproduce", "qick"], capture_output=True, encoding="utf-8"
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("There is no profile `qick`: choose one of")
    assert "Traceback" not in result.stderr


def test_all_notebooks_run_in_the_order_of_their_numbers_and_no_copies_of_them(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(files, "NOTEBOOKS", tmp_path)
    for name in ("02_losses", "01_data", "01_data-Copy1", "04_train-Copy12", "Untitled", "Untitled1", "10_last"):
        (tmp_path / f"{name}.ipynb").touch()
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setattr(execution, "execute", lambda notebook, target, profile: order.append(notebook.name))
    monkeypatch.setattr(execution, "join", lambda profile: tmp_path / profile / "report.html")
    reproduce("smoke")
    assert order == ["01_data.ipynb", "02_losses.ipynb", "10_last.ipynb"]


def test_a_notebook_that_stops_leaves_the_last_whole_one_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "NOTEBOOKS", tmp_path)
    target = notebook(tmp_path / "out" / "01.ipynb", "1")
    before = target.read_bytes()
    broken = notebook(
        tmp_path / "01.ipynb",
        "from cartoonlib.files import InputError\nraise InputError('The folder is empty: put photos into it.')",
    )
    with pytest.raises(InputError, match="stopped in cell 2: The folder is empty: put photos into it"):
        execute(broken, target, "smoke")
    assert target.read_bytes() == before


def test_a_dead_kernel_is_one_sentence_and_the_last_whole_notebook_stays(tmp_path, monkeypatch):
    """As when the system kills it for want of memory: no Python of that kernel can say so."""
    monkeypatch.setattr(files, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(execution, "load_profile", lambda _name: TINY)
    target = notebook(tmp_path / "out" / "01.ipynb", "1")
    before = target.read_bytes()
    dying = notebook(tmp_path / "01.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(InputError, match="01.ipynb died, most likely for want of memory: halve `batch: 2` in the prof"):
        execute(dying, target, "tiny")
    assert target.read_bytes() == before


def test_a_notebook_that_ends_is_kept_with_its_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "NOTEBOOKS", tmp_path)
    target = tmp_path / "out" / "01.ipynb"
    source = notebook(tmp_path / "01.ipynb", "profile = 'smoke'", "print(profile)")
    content = nbformat.read(source, as_version=4)
    content.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(content, source)
    execute(source, target, "quick")
    executed = nbformat.read(target, as_version=4)
    assert executed.cells[-1].outputs[0].text == "quick\n" and executed.cells[1].id == "injected"
    assert sorted(path.name for path in target.parent.iterdir()) == ["01.ipynb", "kernel.log"]


def test_an_executed_notebook_says_nothing_of_where_and_when_it_ran(tmp_path, monkeypatch):
    """So it can be kept in git."""
    monkeypatch.setattr(files, "NOTEBOOKS", tmp_path)
    lines = "from cartoonlib import files\nprint('in', files.RESULTS / 'quick', files.ROOT / 'data')"
    target = tmp_path / "out" / "01.ipynb"
    execute(notebook(tmp_path / "01.ipynb", "profile = 'smoke'", lines), target, "quick")
    content = nbformat.read(target, as_version=4)
    assert content.cells[-1].outputs[0].text == "in results/quick data\n"
    assert set(content.metadata) == {"kernelspec", "language_info"}
    assert not any({"papermill", "execution"} & set(cell.metadata) for cell in content.cells)
    nbformat.validate(content)


def test_a_picture_that_is_there_twice_is_kept_as_the_jpeg():
    data = {"image/png": "long", "image/jpeg": "short", "text/plain": "<Image>"}
    output = nbformat.v4.new_output("display_data", data)
    alone = nbformat.v4.new_output("display_data", {"image/png": "kept"})
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output, alone])])
    outputs = nbformat.reads(without_traces(nbformat.writes(content)), as_version=4).cells[0].outputs
    assert [sorted(each.data) for each in outputs] == [["image/jpeg", "text/plain"], ["image/png"]]


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A notebook that tells its Python and its sockets; and a kernel `python3` of the user's, of another project."""
    monkeypatch.setattr(files, "NOTEBOOKS", tmp_path / "notebooks")
    other = tmp_path / "share" / "kernels" / "python3" / "kernel.json"
    other.parent.mkdir(parents=True)
    argv = ["/usr/bin/python3-of-another-project", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    other.write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    cell = (
        "import json, sys, time\nfrom ipykernel.connect import get_connection_info\n"
        "time.sleep(1)\nprint(sys.executable, json.loads(get_connection_info())['ip'])"
    )
    return notebook(files.NOTEBOOKS / "01.ipynb", cell)


def test_two_reports_at_once_have_kernels_of_this_python_and_sockets_of_their_own(kernels, tmp_path):
    """Each takes the names of sockets that are free at the moment: in one folder they would take each other's."""
    targets = [tmp_path / name / "01.ipynb" for name in "ab"]
    before = sorted(files.NOTEBOOKS.iterdir())
    code = (
        "import sys; from pathlib import Path; from cartoonlib import files; from cartoonlib.report.execute import "
        "execute; files.NOTEBOOKS = Path(sys.argv[1]).parent; execute(Path(sys.argv[1]), Path(sys.argv[2]), 'smoke')"
    )
    commands = [[sys.executable, "-c", code, str(kernels), str(target)] for target in targets]
    for process in [subprocess.Popen(command, cwd=files.ROOT) for command in commands]:
        assert process.wait(timeout=60) == 0
    printed = [nbformat.read(target, as_version=4).cells[-1].outputs[0].text.split() for target in targets]
    # `make test` names it by a relative path.
    assert {os.path.abspath(python) for python, _ in printed} == {os.path.abspath(sys.executable)}
    assert printed[0][1] != printed[1][1] and not any(Path(socket).parent.exists() for _, socket in printed)
    assert sorted(files.NOTEBOOKS.iterdir()) == before


def test_sockets_lie_elsewhere_when_the_temporary_folder_has_a_long_name(kernels, tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    execute(kernels, tmp_path / "a" / "01.ipynb", "smoke")
    assert list(long.iterdir()) == []


def git(folder, *arguments) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=True).stdout.strip()


def test_the_commit_is_that_of_the_project_and_of_no_other_repository(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "-q")
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "other")
    (tmp_path / "other" / "cartoon").mkdir()
    monkeypatch.setattr(files, "ROOT", tmp_path / "other" / "cartoon")  # a ZIP of the project, unpacked there
    assert commit() == "none"
    (tmp_path / "own").mkdir()
    git(tmp_path / "own", "init", "-q")
    git(tmp_path / "own", "commit", "-q", "--allow-empty", "-m", "own")
    monkeypatch.setattr(files, "ROOT", tmp_path / "own")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))  # as a hook of the other one says
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    found = commit()
    monkeypatch.delenv("GIT_DIR"), monkeypatch.delenv("GIT_WORK_TREE")
    assert found == git(tmp_path / "own", "rev-parse", "--short", "HEAD") != "none"
