"""`python -m cartoonlib.report reproduce|join|verify PROFILE`; `readme` is about all results in git.

`blind PROFILE A.safetensors B.safetensors --out DIR` makes sheets of a blind comparison, and reads their answers.
"""

import sys
from pathlib import Path

from .. import files
from . import blind, page, render, verify
from .execute import reproduce


def main() -> None:
    with files.one_sentence():
        match sys.argv[1:]:
            case ["reproduce", profile]:
                reproduce(profile)
            case ["join", profile]:
                page.join(profile)
            case ["blind", profile, *generators, "--out", folder]:
                blind.compare(profile, generators, Path(folder))
            case ["readme"]:
                for path in render.write():
                    print(path.relative_to(files.ROOT))
            case ["verify", profile]:
                verify.main(profile)
            case _:
                raise files.InputError("Give reproduce, join, verify or blind and a profile, or readme.")


if __name__ == "__main__":
    main()
