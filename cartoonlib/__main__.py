from .photos.cli import main

main()
