"""The pages that a stranger reads: short enough, their links lead somewhere, and their examples work."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cartoonlib import files
from cartoonlib.runs.profiles import load_profile

PAGES = ["README.md", "CONTRIBUTING.md", "profiles/README.md", "data/README.md"]
PAGES += [str(path.relative_to(files.ROOT)) for path in sorted((files.ROOT / "cartoonlib").glob("*/README.md"))]
PAGES += [str(path.relative_to(files.ROOT)) for path in sorted((files.ROOT / "results").glob("*/README.md"))]
# One step of training with the new loss, whose weight alone is not 0.
ONE_STEP = """
import torch
from accelerate import Accelerator
from cartoonlib import losses, step
from cartoonlib.profile import LOSSES, Profile, Weights

weights = dict.fromkeys(LOSSES, 0.0) | {"brightness": 2.0}
profile = Profile(name="tiny", size=32, batch=2, perceptual="efficientnet_lite0", segments=20, precision="fp32",
                  weights=Weights(**weights))
photo, cartoon = torch.rand(2, 2, 3, 32, 32) * 2 - 1
grey = torch.full((2, 3, 1, 1), 1 / 3)
found = step.TrainStep(profile, Accelerator(cpu=True))(photo, cartoon, grey)
assert found["brightness"] > 0 and torch.isclose(found["total"], 2 * found["brightness"]), found
print(losses.__file__)
"""


def text(page: str) -> str:
    return (files.ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in a language, without the indentation that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text(page), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in code.split("\n")) for indent, code in found]


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_read_in_five_minutes():
    assert len(text("README.md").encode("utf-8")) <= 12_000


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_picture_is_there(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", text(page))
    local = [target.partition("#") for target in targets if not target.startswith("http")]
    for name, _, anchor in local:
        path = (files.ROOT / page).parent / name
        assert path.exists(), f"{page} links to {name}"
        assert not anchor or anchor in anchors(path), f"{page} links to {name}#{anchor}"


def test_the_profile_of_your_own_loads(tmp_path, monkeypatch):
    (example,) = blocks("profiles/README.md", "yaml")
    (tmp_path / "mine.yaml").write_text(example, encoding="utf-8")
    monkeypatch.setattr(files, "PROFILES", tmp_path)
    mine = load_profile("mine")
    assert mine.of("comics").weights.texture == 10 and mine.of("film").weights.texture == mine.weights.texture


def test_a_loss_is_added_as_contributing_says(tmp_path):
    """On a copy of the library: its function, its weight and its line, then a step of training."""
    function, weight, line = blocks("CONTRIBUTING.md", "python")
    package = tmp_path / "cartoonlib"
    shutil.copytree(files.ROOT / "cartoonlib", package, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    insert(package / "losses.py", r"\Z", f"\n\n{function}")
    insert(package / "profile.py", r"^class Weights.*?^    \w+: Weight[^\n]*\n(?!    \w+: Weight)", weight)
    insert(package / "step.py", r'terms\["anchor"\] = [^\n]*\n', line)
    result = subprocess.run([sys.executable, "-c", ONE_STEP], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert result.stdout.strip() == str(package / "losses.py"), textwrap.shorten(result.stderr[-1000:], 1000)


def insert(path: Path, after: str, new: str) -> None:
    """Put text behind the first place of a file that matches."""
    content = path.read_text(encoding="utf-8")
    place = re.search(after, content, re.DOTALL | re.MULTILINE).end()
    path.write_text(content[:place] + new + content[place:], encoding="utf-8")
