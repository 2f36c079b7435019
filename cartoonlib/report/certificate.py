"""The certificate of reproduction: the numbers of a profile's result files beside those that are in git.

A measurement with an interval is equal to the bit, inside the interval that the pages print, or outside of it. Other
numbers (counts, losses as they were logged) are equal or not. No results are seconds, minutes, speeds and memory, which
NO_RESULT knows by their names; dates and versions, which stand in `environment`; performance.json, all speeds; and
findings.json, which repeats the other files.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator

from .. import files
from . import book, render

COMPARED = ("data", "pretrain", "train", "ablations", "metrics", "whole")
NO_RESULT = re.compile(r"second|minute|memory|_mb\b")
NAMES = ("style", "variant", "group", "reference", "metric")  # of a measurement; two files may hold the same one


def write(profile: str) -> str:
    """Compare the results of a profile with those at git's HEAD; returns the certificate, in markdown.

    It is kept as results/<profile>/certificate.md, unless there is nothing to compare, which a sentence says then.
    InputError for a result file that is missing or damaged.
    """
    texts = {name: book.git("show", f"HEAD:./results/{profile}/{name}.json") for name in COMPARED}
    kept = {name: json.loads(text) for name, text in texts.items() if text}
    if not kept:
        return f"No results of profile {profile} are in git, so there is nothing to compare these with."
    made = {name: render.Results(files.RESULTS).read(f"{profile}/{name}.json") for name in kept}
    if made == kept:
        return f"The results of {profile} are the files of git: make reproduce PROFILE={profile} makes your own."
    found = compare(kept, made) | {"profile": profile, "commit": book.git("describe", "--always", "--exclude=*")}
    text = render.rendered("certificate.md.j2", found)
    files.write_atomic(files.RESULTS / profile / "certificate.md", text)
    return text


def compare(kept: dict[str, dict], made: dict[str, dict]) -> dict:
    """How results lie to kept ones, both by the names of their files: what certificate.md.j2 says.

    `equal`, `inside`, `outside` are names of measurements, `same` and `changed` of other numbers; `kept`, `made` hold
    (value, low, high) or (value,) by name. `origins`: what was different, with both values.
    """
    old, new = dict(_numbers(kept)), dict(_numbers(made))
    found = {kind: [] for kind in ("equal", "inside", "outside", "same", "changed")}
    for name in (name for name in old if name in new):
        equal, (_, *interval) = old[name] == new[name], old[name]
        if not interval:
            kind = "same" if equal else "changed"
        else:
            kind = "equal" if equal else "inside" if interval[0] <= new[name][0] <= interval[1] else "outside"
        found[kind].append(name)
    found |= {"gone": [name for name in old if name not in new], "added": [name for name in new if name not in old]}
    return found | {"kept": old, "made": new, "origins": _origins(kept, made)}


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
    known = defaultdict(lambda: (set(), set()))
    for side, results in enumerate((kept, made)):
        for environment in (content.get("environment", {}) for content in results.values()):
            for key, value in (environment | environment.get("data", {})).items():
                known[key][side].add(str(value))
    pairs = {key: tuple(" and ".join(sorted(values)) or "-" for values in both) for key, both in known.items()}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key not in ("data", "date")}
