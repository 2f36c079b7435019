"""A blind comparison: readers see a photo and two pictures of it, and say which of them is the better cartoon.

The pairs come in a random order and on random sides. A folder, named by the hash of the pictures, keeps what they are
in key.json, which no reader should see, and what was answered in answers.csv, a line an answer.
"""

import hashlib
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.special import expit

from ..dataset.sets import Sets
from ..files import InputError, write_atomic
from ..networks import load_generator
from ..runs.profiles import load_profile
from . import figures, metrics, paper, render

MOST, ON_A_SHEET = 60, 6  # pairs
SIDES = ("left", "right")
PRIOR = 3.0  # deviation of strengths before any answer, so that who always wins has a finite one


def bradley_terry(wins: list[tuple[str, str]], names: list[str]) -> dict[str, dict[str, float]]:
    """Name -> `value`, `low` and `high`: the probability of being preferred to an average one, with a 95 % interval.

    By the model of Bradley & Terry (1952), in which a is preferred to b with the probability expit(s_a - s_b). The
    strengths s have the highest posterior density; their interval is by its curvature there, as if answers were
    independent.  wins: (the preferred one, the other) of every answer.
    """
    one, other = (np.eye(len(names))[[names.index(name) for name in side]] for side in zip(*wins))
    design, s = one - other, np.zeros(len(names))
    for _ in range(30):  # Newton's method
        p = expit(design @ s)
        curvature = (design.T * (p * (1 - p))) @ design + np.eye(len(names)) / PRIOR**2
        s += np.linalg.solve(curvature, design.T @ (1 - p) - s / PRIOR**2)
    centred = np.eye(len(names)) - 1 / len(names)
    half = 1.96 * np.sqrt(np.diag(centred @ np.linalg.inv(curvature) @ centred))
    ends = {"value": s, "low": s - half, "high": s + half}
    return {name: {key: float(expit(end[i])) for key, end in ends.items()} for i, name in enumerate(names)}


class Comparison:
    """The pairs of a blind comparison, their pictures and their answers, in a folder of their own within `folder`.

    photos: uint8 (N, S, S, 3).  columns: name -> pictures of the same faces, the same; two or more.
    """

    def __init__(self, folder: Path, photos: np.ndarray, columns: dict[str, np.ndarray], seed: int):
        self.photos, self.columns = photos, columns
        rng, shown = np.random.default_rng(seed), hashlib.sha256()
        for name, pictures in {"": photos, **columns}.items():
            shown.update(name.encode() + pictures.tobytes())
        every = [(face, *two) for face in range(len(photos)) for two in combinations(columns, 2)]
        chosen = [every[i] for i in rng.permutation(len(every))[:MOST]]
        self.pairs = {str(n): (face, *rng.permutation(two).tolist()) for n, (face, *two) in enumerate(chosen, start=1)}
        self.folder = folder / f"blind-{seed}-{shown.hexdigest()[:8]}"
        self.file = self.folder / "answers.csv"
        write_atomic(self.folder / "key.json", json.dumps({"face, left, right": self.pairs}, indent=1) + "\n")
        if not self.file.exists():
            write_atomic(self.file, "pair,answer\n" + "".join(f"{pair},\n" for pair in self.pairs))

    def pictures(self, pair: str) -> np.ndarray:
        """The photo, the left and the right picture of a pair: uint8 (3, S, S, 3)."""
        face, *names = self.pairs[pair]
        return np.stack([self.photos[face], *(self.columns[name][face] for name in names)])

    def answer(self, pair: str, side: str) -> None:
        """Keep an answer, `left` or `right`."""
        write_atomic(self.file, self.file.read_text(encoding="utf-8").rstrip("\n") + f"\n{pair},{side}\n")

    def answers(self) -> list[tuple[str, str]]:
        """(pair, side) of all answers; InputError for a line that is none."""
        found = []
        for line in filter(str.strip, self.file.read_text(encoding="utf-8").lower().splitlines()[1:]):
            pair, _, side = map(str.strip, line.partition(","))
            if pair not in self.pairs or side not in ("", *SIDES):
                raise InputError(f"{self.file}: `{line}` is not a pair of the sheets, a comma, and left or right.")
            found += [(pair, side)] if side else []
        return found

    def scores(self) -> str:
        """A markdown table of what was preferred; a sentence when nothing was answered."""
        answers = self.answers()
        if not answers:
            return f"No answers were given yet: {len(self.pairs)} pairs wait for some."
        wins = [self.pairs[pair][1:][:: 1 if side == "left" else -1] for pair, side in answers]
        rows = bradley_terry(wins, list(self.columns))
        return render.shown("preferred", [(name, row, sum(name in win for win in wins)) for name, row in rows.items()])

    def sheets(self) -> None:
        """Write all pairs as sheet-01.png and so on, where they are missing."""
        for number, first in enumerate(range(0, len(self.pairs), ON_A_SHEET), start=1):
            pairs, path = list(self.pairs)[first : first + ON_A_SHEET], self.folder / f"sheet-{number:02d}.png"
            if not path.exists():
                rows = {f"pair {pair}: photo, left, right": self.pictures(pair) for pair in pairs}
                paper.save_figure(figures.gallery(rows), path)


def compare(name: str, generators: list[str], folder: Path) -> None:
    """Write the sheets of generators, files or `photo`, on a profile's held-out faces; print what their answers say."""
    if len(generators) < 2:
        raise InputError("Give two .safetensors files or more, or one and `photo`.")
    profile, columns = load_profile(name), {}
    photos = Sets(profile).shown
    for given in generators:
        try:
            network = None if given == "photo" else load_generator(Path(given)).float()
            columns[given] = metrics.generate(network, photos) if network else photos
        except Exception as error:  # safetensors raises many kinds
            raise InputError(f"{given} is no generator of this project ({str(error).splitlines()[0]}).") from None
    comparison = Comparison(folder, photos, columns, profile.seed)
    comparison.sheets()
    print(f"{comparison.folder}: write left or right behind each pair of answers.csv, and run the same command again")
    print(comparison.scores())
