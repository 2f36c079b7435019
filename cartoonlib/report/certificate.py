"""The certificate of reproduction: the numbers of a profile's result files beside those that are in git.

A measurement with an interval is equal to the bit, inside the interval that the pages print, or outside of it. Other
numbers (counts, losses as they were logged) are equal or not. No results are seconds, minutes, speeds and memory, which
NO_RESULT knows by their names; dates and versions, which stand in `environment`; performance.json, all speeds; and
findings.json, which repeats the other files.
"""

import json
import re
from collections.abc import Iterator

from .. import files
from . import render
from .book import git

COMPARED = ("data", "pretrain", "train", "ablations", "metrics")
NO_RESULT = re.compile(r"second|minute|memory|_mb\b")
NAMES = ("style", "variant", "group", "reference", "metric")  # of a measurement; two files may hold the same one


def write(profile: str) -> str:
    """Compare the results of a profile with those at git's HEAD; returns the certificate, in markdown.

    It is kept as results/<profile>/certificate.md, unless there is nothing to compare, which a sentence says then.
    InputError for a result file that is missing or damaged.
    """
    texts = {name: git("show", f"HEAD:./results/{profile}/{name}.json") for name in COMPARED}
    kept = {name: json.loads(text) for name, text in texts.items() if text}
    if not kept:
        return f"No results of profile {profile} are in git, so there is nothing to compare these with."
    results = render.Results(files.RESULTS)
    made = {name: results.read(f"{profile}/{name}.json") for name in kept}
    if made == kept:
        return f"The results of {profile} are the files of git: make reproduce PROFILE={profile} makes your own."
    found = compare(kept, made) | {"profile": profile, "commit": git("describe", "--always", "--exclude=*")}
    text = render.rendered("certificate.md.j2", found)
    files.write_atomic(files.RESULTS / profile / "certificate.md", text)
    return text


def compare(kept: dict[str, dict], made: dict[str, dict]) -> dict:
    """How results lie to kept ones, both by the names of their files: what certificate.md.j2 says.

    `equal`, `inside`, `outside` are names of measurements, `same` and `changed` of other numbers; `kept`, `made` hold
    (value, low, high) or (value,) by name. `origins`: what was different, with both values.
    """
    old, new = dict(_numbers(kept)), dict(_numbers(made))
    both = [name for name in old if name in new]
    equal = [name for name in both if old[name] == new[name]]
    moved = [name for name in both if old[name] != new[name] and len(old[name]) == 3]
    inside = [name for name in moved if old[name][1] <= new[name][0] <= old[name][2]]
    return {
        "kept": old, "made": new, "origins": _origins(kept, made), "inside": inside,
        "equal": [name for name in equal if len(old[name]) == 3],
        "outside": [name for name in moved if name not in inside],
        "same": [name for name in equal if len(old[name]) == 1],
        "changed": [name for name in both if old[name] != new[name] and len(old[name]) == 1],
        "gone": [name for name in old if name not in new], "added": [name for name in new if name not in old],
    }  # fmt: skip


def _numbers(content: dict | list | float | str, name: str = "") -> Iterator[tuple[str, tuple[float, ...]]]:
    """(name, (value, low, high)) of every measurement, (name, (value,)) of every other number that is a result."""
    if isinstance(content, dict) and content.keys() >= {"value", "low", "high"}:
        name = ", ".join(content[key] for key in NAMES if key in content)
        numbers = (content["value"], content["low"], content["high"])
    elif isinstance(content, (dict, list)):
        for key, part in content.items() if isinstance(content, dict) else enumerate(content):
            if key != "environment":
                yield from _numbers(part, f"{name} {key}".strip())
        return
    else:
        numbers = (content,)
    if type(numbers[0]) in (int, float) and not NO_RESULT.search(name):
        yield name, numbers


def _origins(kept: dict[str, dict], made: dict[str, dict]) -> dict[str, tuple[str, str]]:
    """Machine, precision, versions, data and settings in which the files differ: name -> (kept, made)."""
    sides = []
    for results in (kept, made):
        known: dict[str, set[str]] = {}
        for environment in (content.get("environment", {}) for content in results.values()):
            for key, value in (environment | environment.get("data", {})).items():
                known.setdefault(key, set()).add(str(value))
        sides.append({key: " and ".join(sorted(values)) for key, values in known.items()})
    keys = [key for key in sides[0] | sides[1] if key not in ("data", "date")]
    pairs = {key: tuple(side.get(key, "-") for side in sides) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
