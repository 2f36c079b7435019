"""`python -m cartoonlib.bench` runs notebooks/06_performance.ipynb with the profile `bench` and keeps its numbers.

They become results/bench/<cpu|cuda>.json. Two more tasks are processes that the notebook measures: `serve ours|original
SETTINGS CHANGES` (both JSON) makes one step whenever it is asked to, `draw WAY GENERATOR HEIGHT WIDTH REPEATS` draws a
photo.
"""

import json
import sys

from .. import files
from ..files import one_sentence
from ..report.execute import execute
from ..report.tables import last_line
from .drawing import draw_here
from .steps import STEPS, serve


def bench() -> None:
    """Run the notebook with the profile `bench` and keep its numbers by kind of device."""
    name, folder = "06_performance.ipynb", files.RESULTS / "bench"
    execute(files.NOTEBOOKS / name, folder / "notebooks" / name, "bench")
    text = (folder / "performance.json").read_text(encoding="utf-8")
    numbers = json.loads(text)["performance"]
    files.write_atomic(folder / f"{numbers['device']}.json", text)
    print(f"{folder / numbers['device']}.json: {json.dumps(numbers['hardware'])}")
    print(last_line(numbers["step"]["ours"]["ratio"], numbers["device"]))


def main() -> None:
    with one_sentence():
        match sys.argv[1:]:
            case []:
                bench()
            case ["serve", which, settings, changes] if which in STEPS:
                serve(which, json.loads(settings), json.loads(changes))
            case ["draw", way, generator, *numbers]:
                print(json.dumps(draw_here(way, generator, *map(int, numbers))))
            case _:
                raise files.InputError("Give nothing, or: serve ours|original SETTINGS CHANGES, both as JSON.")


if __name__ == "__main__":
    main()
