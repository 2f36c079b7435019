"""`python -m cartoonlib.bench`: notebook 07 with the profile `bench`, its numbers to results/bench/<cpu|cuda>.json."""

import json
import sys

from .. import files
from ..report.execute import execute
from ..report.tables import last_line


def main() -> None:
    with files.one_sentence():
        if sys.argv[1:]:
            raise files.InputError("Give nothing: the benchmark has its settings in profiles/bench.yaml.")
        name, folder = "07_performance.ipynb", files.RESULTS / "bench"
        execute(files.NOTEBOOKS / name, folder / "notebooks" / name, "bench")
        text = (folder / "performance.json").read_text(encoding="utf-8")
        numbers = json.loads(text)["performance"]
        path = folder / f"{numbers['device']}.json"
        files.write_atomic(path, text)
        print(f"{path}: {json.dumps(numbers['hardware'])}")
        print(last_line(numbers["step"]["ours"]["ratio"], numbers["device"]))


if __name__ == "__main__":
    main()
