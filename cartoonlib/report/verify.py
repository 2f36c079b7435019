"""`make verify`: whether README, pages of results and model cards are what the result files say.

Renders each of them anew and compares: any other digit is found, in a page or in a result file. The result files must
say whence they are. Prints a line a check and ends with a status that is not zero when one fails. Then comes the
certificate of a profile: numbers beside those in git, which another machine may have made, so that it fails nothing.
"""

import sys
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path

from .. import files
from . import book, certificate, render

RECORDED = {"profile", "settings", "seed", "device", "precision", "python", "commit", "date", *book.PACKAGES}
WITH_ORIGIN = [f"{profile}/{name}.json" for profile, names in render.FILES.items() for name in names]
WITH_ORIGIN += ["bench/cpu.json"]


def checks(root: Path = files.ROOT) -> Iterator[tuple[str, list[str]]]:
    """(what was checked, what is wrong with it), one after the other, for the clone whose root is given."""
    every = {path: partial(_page, root, path) for path in render.PAGES}
    every["generators and their cards"] = partial(_cards, root)
    every |= {f"origin of results/{name}": partial(_origin, root, name) for name in WITH_ORIGIN}
    for what, check in every.items():
        try:
            yield what, check()
        except files.InputError as error:
            yield what, [str(error)]
        except KeyError as error:
            yield what, [f"the results lack {error}"]


def _page(root: Path, path: str, wanted: str | None = None) -> list[str]:
    """The first line in which a page, or a card whose text is given, is not what the results make it."""
    wanted = wanted or render.page(root, path)
    if not (root / path).exists():
        return [f"{path} is missing: make readme writes it"]
    kept = (root / path).read_text(encoding="utf-8").split("\n")
    for number, (ours, other) in enumerate(zip_longest(kept, wanted.split("\n"), fillvalue="(no line)"), 1):
        if ours != other:
            return [f"{path}, line {number}: `{ours}`, the results make it `{other}` (make readme writes it)"]
    return []


def _cards(root: Path) -> list[str]:
    results = render.Results(root / "results")
    styles = results.part(render.PUBLISHED, "train").keys()
    cards = {path.stem: path for path in sorted(results.weights(render.PUBLISHED, "").parent.glob("*.md"))}
    wrong = [f"{style} has numbers or a card, not both" for style in sorted(styles ^ cards.keys())]
    for style, path in cards.items():
        if not render.vouched(path.with_suffix(".safetensors")):
            wrong.append(f"{style}.safetensors is missing or not the file that {style}.md describes")
    if not wrong:
        for style, text in render.cards(root).items():
            wrong += _page(cards[style].parent, cards[style].name, text)
    return wrong


def _origin(root: Path, name: str) -> list[str]:
    """Versions, commit, profile, seed and hardware stand beside the numbers."""
    missing = RECORDED - set(render.Results(root / "results").read(name).get("environment", {}))
    return [f"it does not say {', '.join(sorted(missing))}"] if missing else []


def main(profile: str) -> None:
    """Print every check and what is wrong, and the certificate of a profile; exits with 1 when a check failed."""
    failed = 0
    for what, wrong in checks():
        print(f"{'FAILED' if wrong else 'ok'}: {what}", *(f"    {problem}" for problem in wrong), sep="\n")
        failed += bool(wrong)
    print("", certificate.write(profile), sep="\n")
    if failed:
        sys.exit(f"{failed} checks failed")
