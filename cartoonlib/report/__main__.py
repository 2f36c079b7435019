"""`python -m cartoonlib.report reproduce|join|verify PROFILE`; `readme` is about all results in git."""

import sys

from .. import files
from ..files import InputError, one_sentence
from . import render, verify
from .execute import join, reproduce


def main() -> None:
    with one_sentence():
        match sys.argv[1:]:
            case ["reproduce", profile]:
                reproduce(profile)
            case ["join", profile]:
                join(profile)
            case ["readme"]:
                for path in render.write():
                    print(path.relative_to(files.ROOT))
            case ["verify", profile]:
                verify.main(profile)
            case _:
                raise InputError("Give reproduce, join or verify and a profile, or readme.")


if __name__ == "__main__":
    main()
