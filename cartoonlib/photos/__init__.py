"""A photo or film of your own, of any size, as a cartoon: `Cartoonizer("anime")(image)`."""


def __getattr__(name: str):
    """Cartoonizer, loaded when it is asked for: `cartoonize --help` need not wait for PyTorch."""
    if name != "Cartoonizer":
        raise AttributeError(f"{__name__} has no {name}")
    from .cartoonizer import Cartoonizer

    return Cartoonizer
