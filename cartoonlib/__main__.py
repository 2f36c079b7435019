"""`python -m cartoonlib` is the command `cartoonize`."""

from .photos.cli import main

main()
