"""The README tells the truth about the results in git, and `make verify` notices when it does not."""

import json
import subprocess
import sys

import pytest

from cartoonlib import files
from cartoonlib.report import tables, verify

README = (files.ROOT / "README.md").read_text()
GENERATORS = files.ROOT / "results" / "reference" / "generators"


def committed(name: str) -> dict:
    """A result file as it is in git: your own run may differ."""
    shown = subprocess.run(["git", "show", f"HEAD:results/{name}"], cwd=files.ROOT, capture_output=True, text=True)
    if shown.returncode:
        raise KeyError(f"results/{name}")
    return json.loads(shown.stdout)


def problems(readme=README, read=committed, generators=GENERATORS) -> dict[str, list[str]]:
    return {what: wrong for what, wrong in verify.checks(readme, read, generators) if wrong}


@pytest.fixture(scope="module", autouse=True)
def results_in_git():
    try:
        committed("reference/metrics.json")
    except KeyError:
        pytest.skip("no results are in git here: clone the repository to check them")


def test_the_readme_tells_what_the_results_in_git_say():
    assert problems() == {}


@pytest.mark.parametrize("profile", verify.PROFILES)
def test_a_changed_table_is_noticed(profile):
    first = README.index(tables.README_MARKERS[0].format(profile))
    place = README.index(" [", first)
    changed = README[: place - 1] + str((int(README[place - 1]) + 1) % 10) + README[place:]
    assert list(problems(changed)) == [f"table of {profile} in the README"]


def test_a_number_of_the_prose_that_stands_in_no_table_is_noticed():
    changed = README.replace("\n## Results\n", "\n## Results\n\nIt is 0.123456 [0.1, 0.2] and +98.7 [+1, +2].\n")
    (wrong,) = problems(changed).values()
    assert wrong == ["0.123456 [0.1, 0.2] stands in no table", "+98.7 [+1, +2] stands in no table"]


def test_another_speed_is_noticed():
    def faster(name):
        content = committed(name)
        if name == "bench/cpu.json":
            content["performance"]["step"]["original"]["seconds"]["median"] *= 2
        return content

    assert list(problems(read=faster)) == ["speeds in the README"]


def test_a_changed_generator_is_noticed(tmp_path):
    for path in GENERATORS.iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= path.stem == "anime" and path.suffix == ".safetensors"
        (tmp_path / path.name).write_bytes(content)
    assert problems(generators=tmp_path) == {
        "generators and their cards": ["anime.safetensors is missing or not the file that anime.md describes"]
    }


def test_a_missing_result_and_one_without_its_origin_are_noticed():
    def poorer(name):
        content = committed(name)
        if name == "quick/metrics.json":
            raise KeyError("results/quick/metrics.json")
        if name == "quick/train.json":
            del content["environment"]["commit"]
        return content

    found = problems(read=poorer)
    assert found.pop("origin of results/quick/train.json") == ["it does not say commit"]
    assert found.pop("origin of results/quick/metrics.json") == ["results/quick/metrics.json is missing"]
    (table,) = found.pop("table of quick in the README")
    assert table.startswith("results/quick/metrics.json is missing: make reproduce")
    assert not found


def test_the_command_says_what_it_checked():
    result = subprocess.run([sys.executable, "-m", "cartoonlib.report", "verify"], capture_output=True, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith(("ok", "FAILED"))]
    assert len(lines) == 5 + 10 and "Traceback" not in result.stderr
