"""`python -m cartoonlib.runs train|ablations|profile ...`: train runs from a shell, or print a profile in full."""

import argparse

import yaml

from ..files import one_sentence
from . import ablations, parallel
from .profiles import load_profile


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cartoonlib.runs", description="Train runs as jobs.")
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("train", help="train the styles of a profile; under accelerate launch, in its processes")
    task.add_argument("profile")
    task.add_argument("styles", nargs="*", help="all when none is named")
    task = tasks.add_parser("ablations", help="train the styles and the rows of the ablation table on Dask workers")
    task.add_argument("profile")
    where = task.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, default=2, help="how many to start on this machine (default: 2)")
    where.add_argument("--scheduler", metavar="HOST:PORT", help="of a Dask scheduler whose workers to use")
    tasks.add_parser("profile", help="print a profile with all its settings").add_argument("profile")
    tasks.add_parser("run", help="one job, given as JSON; for cartoonlib itself").add_argument("job")
    given = parser.parse_args()
    with one_sentence():
        if given.task == "train":
            parallel.train_styles(given.profile, given.styles)
        elif given.task == "ablations":
            ablations.train_rows(given.profile, given.workers, given.scheduler)
        elif given.task == "profile":
            print(yaml.safe_dump(load_profile(given.profile).model_dump(mode="json"), sort_keys=False), end="")
        else:
            parallel.run_launched(given.job)


if __name__ == "__main__":
    main()
