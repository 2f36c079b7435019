"""`make verify`: whether the numbers printed in the README are those of the result files, and these say whence they are.

Prints a line a check and ends with a status that is not zero when one fails.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import files
from . import tables
from .book import PACKAGES

PROFILES = ("quick", "reference")  # those that the README shows
RECORDED = {"profile", "settings", "seed", "device", "precision", "python", "commit", "date", *PACKAGES}


def checks(readme: str, read: Callable[[str], dict], generators: Path) -> Iterator[tuple[str, list[str]]]:
    """(what was checked, what is wrong with it), one after the other.

    readme: its text.  read: name of a file below results/ -> its content; KeyError when it is missing.
    generators: the folder of the published weights and their cards.
    """
    for profile in PROFILES:
        yield f"table of {profile} in the README", _table(readme, read, profile)
    yield "numbers in the README's prose on results", _prose(readme)
    yield "speeds in the README", _speeds(readme, read)
    yield "generators and their cards", _cards(read, generators)
    for name in (f"{p}/{n}.json" for p in PROFILES for n in ("data", "pretrain", "train", "ablations", "metrics")):
        yield f"origin of results/{name}", _origin(read, name)


def _table(readme: str, read: Callable, profile: str) -> list[str]:
    try:
        rows, findings = (read(f"{profile}/{name}.json")[name] for name in ("metrics", "findings"))
    except KeyError as missing:
        return [f"{missing.args[0]} is missing: make reproduce PROFILE={profile} makes it"]
    first, last = (marker.format(profile) for marker in tables.README_MARKERS)
    place = readme.partition(first)[2].partition(last)[0]
    same = tables.readme_tables(rows, findings) in place
    return [] if same else [f"it is not that of the results: make readme PROFILE={profile} writes it"]


def _prose(readme: str) -> list[str]:
    """Every interval, and every number with a point and three digits, must stand in a table as it is quoted."""
    results = readme.partition("\n## Results\n")[2].partition("\n## ")[0]
    tables = "\n".join(line for line in results.splitlines() if line.startswith("|"))
    prose = "\n".join(line for line in results.splitlines() if not line.startswith("|"))
    prose = re.sub(r"\(results/[^)]*\)|`[^`]*`", "", prose)
    quoted = re.findall(r"[-+]?[\d.]+ \[[^\]]+\]", prose)
    alone = re.findall(r"(?<![\d,.])\d+\.\d+", re.sub(r"\[[^\]]*\]", "", prose))
    quoted += [number for number in alone if len(number.strip("0").replace(".", "")) >= 3 and number not in str(quoted)]
    lost = [number for number in quoted if not re.search(rf"(?<![\d.+-]){re.escape(number)}(?![\d.])", tables)]
    return [f"{number} stands in no table" for number in lost] + ["no number was found"] * (not quoted)


def _speeds(readme: str, read: Callable) -> list[str]:
    performance = read("bench/cpu.json")["performance"]
    steps = performance["step"]
    every = steps["ours, every image"]["ratio"]
    wanted = [tables.last_line(steps["ours"]["ratio"], "cpu")]
    wanted += [f"{every['median']:.2f} ({every['min']:.2f}-{every['max']:.2f})"]
    wanted += [f"{steps[name]['seconds']['median']:.2f} s" for name in ("ours", "ours, every image", "original")]
    photos = [line for name in ("drawing_goals", "onnx_variants") for line in performance.get(name, [])]
    wanted += [f"| {' | '.join(line)} |" for line in photos]
    return [f"`{text}` of results/bench/cpu.json is not there" for text in wanted if text not in readme]


def _cards(read: Callable, generators: Path) -> list[str]:
    cards = {path.stem: path.read_text() for path in generators.glob("*.md")}
    rows = {(row["style"], row["steps"]) for row in read("reference/metrics.json")["metrics"] if row["group"] == "style"}
    wrong = [f"{style} has numbers or a card, not both" for style in {style for style, _ in rows} ^ set(cards)]
    for style, card in cards.items():
        weights = generators / f"{style}.safetensors"
        if not weights.exists() or hashlib.sha256(weights.read_bytes()).hexdigest() not in card:
            wrong.append(f"{weights.name} is missing or not the file that {style}.md describes")
    wrong += [f"{style}.md has other steps than {steps}" for style, steps in rows if f", {steps} of training" not in cards.get(style, "")]
    return wrong


def _origin(read: Callable, name: str) -> list[str]:
    """Versions, commit, profile, seed and hardware stand beside the numbers."""
    try:
        missing = RECORDED - set(read(name)["environment"])
    except KeyError as lost:
        return [f"{lost.args[0]} is missing"]
    return [f"it does not say {', '.join(sorted(missing))}"] if missing else []


def main() -> None:
    def read(name: str) -> dict:
        path = files.ROOT / "results" / name
        if not path.exists():
            raise KeyError(f"results/{name}")
        return json.loads(path.read_text())

    failed = 0
    for what, wrong in checks((files.ROOT / "README.md").read_text(), read, files.ROOT / "results/reference/generators"):
        print(f"{'FAILED' if wrong else 'ok'}: {what}", *(f"    {problem}" for problem in wrong), sep="\n")
        failed += bool(wrong)
    if failed:
        sys.exit(f"{failed} checks failed")
