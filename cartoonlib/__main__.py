from .cartoonize import main

main()
