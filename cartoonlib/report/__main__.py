"""`python -m cartoonlib.report reproduce|join|readme PROFILE`, and `verify`."""

import sys

from ..files import InputError, one_sentence
from . import verify
from .execute import reproduce
from .page import join
from .tables import update_readme


def main() -> None:
    tasks = {"reproduce": reproduce, "join": join, "readme": update_readme}
    with one_sentence():
        if sys.argv[1:] == ["verify"]:
            return verify.main()
        if len(sys.argv) != 3 or sys.argv[1] not in tasks:
            raise InputError(f"Give a task ({', '.join(tasks)}) and a profile, or verify.")
        tasks[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    main()
