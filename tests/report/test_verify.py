"""README, pages of results and cards are what the results in git say, and `make verify` finds any altered digit."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cartoonlib import files
from cartoonlib.files import InputError
from cartoonlib.report import __main__ as command
from cartoonlib.report import render, tables, verify

GENERATORS = Path("results/reference/generators")
CARDS = [str(GENERATORS / path.name) for path in sorted((files.ROOT / GENERATORS).glob("*.md"))]
GENERATED = [*render.PAGES, *CARDS]


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=files.ROOT, capture_output=True, encoding="utf-8").stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The generated pages, and the result files as they are in git: your own run may differ."""
    root = tmp_path_factory.mktemp("clone")
    names = [name for name in git("ls-files", "results").split() if name.endswith(".json")]
    if not names:
        pytest.skip("no results are in git here: clone the repository to check them")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(git("show", f"HEAD:{name}"), encoding="utf-8")
    shutil.copytree(files.ROOT / GENERATORS, root / GENERATORS)
    for name in render.PAGES:
        shutil.copy(files.ROOT / name, root / name)
    return root


@pytest.fixture
def edit(clone):
    """A function that replaces the content of a file of the clone until the test ends."""
    before = {}

    def replace(name: str, content: bytes | str | None) -> None:
        path = clone / name
        before.setdefault(path, path.read_bytes())
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)

    yield replace
    for path, content in before.items():
        path.write_bytes(content)


def problems(root: Path) -> dict[str, list[str]]:
    return {what: wrong for what, wrong in verify.checks(root) if wrong}


def other_digit(text: str, place: int) -> str:
    return text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


def test_pages_and_cards_are_what_the_results_in_git_say(clone):
    assert problems(clone) == {}


def test_ten_altered_digits_are_found_one_by_one(clone, edit):
    draw = np.random.default_rng(0)
    for number in range(10):
        name = GENERATED[number] if number < len(GENERATED) else str(draw.choice(GENERATED))
        text = (clone / name).read_text(encoding="utf-8")
        place = draw.choice([match.start() for match in re.finditer(r"\d", text)])
        edit(name, other_digit(text, place))
        (wrong,) = problems(clone).values()
        assert len(wrong) == 1 and Path(name).stem in wrong[0], (name, place)
        edit(name, text)


@pytest.mark.parametrize("name", ["README.md", "results/reference/README.md"])
def test_a_made_up_distance_and_swapped_styles_are_found(name, clone, edit):
    text = (clone / name).read_text(encoding="utf-8")
    styles = render.of_a_profile(render.Results(clone / "results"), "reference")["styles"]
    first, second = [tables.interval(found["style_distance"]) for found in [*styles.values()][:2]]
    assert first in text and second in text
    line = text[: text.index(first)].count("\n") + 1
    edit(name, text.replace(first, "0.001", 1))
    assert problems(clone)[name][0].startswith(f"{name}, line {line}: `")
    edit(name, text.replace(first, "swapped").replace(second, first).replace("swapped", second))
    assert list(problems(clone)) == [name]


@pytest.mark.parametrize("source", ["reference/metrics", "quick/findings", "quick/performance", "bench/cpu", "soak"])
def test_an_altered_digit_in_a_result_file_is_found(source, clone, edit):
    """Even one that no page shows."""
    name = f"results/{source}.json"
    text = (clone / name).read_text(encoding="utf-8")
    edit(name, other_digit(text, [match.start() for match in re.finditer(r"\d\b", text)][-1]))
    assert any(page in problems(clone) for page in render.PAGES)


def test_a_changed_generator_is_found_and_its_card_not_written_over(clone, edit):
    weights = str(GENERATORS / "anime.safetensors")
    content = bytearray((clone / weights).read_bytes())
    content[-1] ^= 1
    edit(weights, bytes(content))
    assert problems(clone) == {
        "generators and their cards": ["anime.safetensors is missing or not the file that anime.md describes"]
    }
    with pytest.raises(InputError, match="anime.safetensors is not the file that anime.md describes"):
        render.write(clone)


def test_a_card_without_numbers_is_found(clone, edit):
    name = "results/reference/train.json"
    content = json.loads((clone / name).read_text(encoding="utf-8"))
    del content["train"]["comic"]
    edit(name, json.dumps(content))
    assert problems(clone)["generators and their cards"] == ["comic has numbers or a card, not both"]


def test_a_missing_result_and_one_without_its_origin_are_found(clone, edit):
    edit("results/quick/metrics.json", None)
    content = json.loads((clone / "results/quick/train.json").read_text(encoding="utf-8"))
    del content["environment"]["commit"]
    edit("results/quick/train.json", json.dumps(content))
    missing = ["results/quick/metrics.json is missing: make reproduce PROFILE=quick makes it"]
    assert problems(clone) == {
        "results/quick/README.md": missing,
        "origin of results/quick/metrics.json": missing,
        "origin of results/quick/train.json": ["it does not say commit"],
    }


def test_a_damaged_result_file_is_one_sentence(clone, edit):
    edit("results/quick/metrics.json", '{"metrics": [00]}')
    (wrong,) = problems(clone)["origin of results/quick/metrics.json"]
    assert wrong.startswith("results/quick/metrics.json is not valid JSON")
    edit("results/quick/metrics.json", '{"environment": {}}')
    assert problems(clone)["results/quick/README.md"] == ["the results lack 'metrics'"]


def test_a_number_that_the_results_lack_is_one_sentence(clone, edit):
    name = "results/reference/findings.json"
    content = json.loads((clone / name).read_text(encoding="utf-8"))
    del content["findings"]["goals"]
    edit(name, json.dumps(content))
    (wrong,) = problems(clone)["results/reference/README.md"]
    assert wrong.startswith("reference.md.j2 names a result that is not there") and "goals" in wrong


def test_a_row_that_was_not_trained_has_no_line_and_one_that_collapsed_says_so(clone, edit):
    page, title = "results/quick/README.md", "without texture"
    assert "* **Texture** left out: style distance" in render.page(clone, page)
    for name in ("findings", "ablations"):
        content = json.loads((clone / f"results/quick/{name}.json").read_text(encoding="utf-8"))
        if name == "findings":
            differences = content[name]["differences"]
            content[name]["differences"] = [row for row in differences if row["variant"] != title]
        else:
            del content[name]["runs"][title]
            stopped = {"group": "without", "seed": 0, "style": "open_peeps", "stopped": "flat"}
        edit(f"results/quick/{name}.json", json.dumps(content))
    assert "**Texture** left out" not in render.page(clone, page)
    content["ablations"]["runs"][title] = stopped
    edit("results/quick/ablations.json", json.dumps(content))
    assert "* **Texture** left out: the row collapsed to a flat picture.\n" in render.page(clone, page)


def test_writing_renews_every_page_and_changes_nothing_that_is_right(clone, edit):
    before = {name: (clone / name).read_text(encoding="utf-8") for name in GENERATED}
    for name in ("README.md", CARDS[0]):
        edit(name, before[name].replace("2026", "1999"))
    assert {str(path.relative_to(clone)) for path in render.write(clone)} == set(GENERATED)
    assert {name: (clone / name).read_text(encoding="utf-8") for name in GENERATED} == before
    assert all(text.startswith("<!-- Generated by ") for text in before.values())


def test_the_command_says_what_it_checked(monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["report", "verify", "quick"])
    with contextlib.suppress(SystemExit):  # the status is that of the files in git
        command.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok", "FAILED"))]
    assert len(lines) == 5 + len(verify.WITH_ORIGIN)
