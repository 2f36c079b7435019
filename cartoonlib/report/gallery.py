"""The gallery of the README: large portraits that may be shown, each beside the cartoons that every style makes of it.

report knows nothing of photos, so who calls it gives what draws.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from ..dataset import catalogue, origins
from ..files import InputError

SIDE, GAP = 256, 4  # px, of a picture and between two
# Portraits of the set embedded_faces, and the square around the head: left, top, side in px.
PORTRAITS = (
    ("skimage/astronaut.png", (66, 0, 330)),
    ("creative-tim-official-argon-dashboard-2.0.4/assets/img/team-2.jpg", (160, 90, 600)),
    ("material-dashboard-3.1.0/assets/img/team-1.jpg", (0, 0, 400)),
    ("creative-tim-official-argon-dashboard-2.0.4/assets/img/team-3.jpg", (150, 30, 480)),
    ("matplotlib/grace_hopper.jpg", (80, 10, 370)),
)


def portraits(names: list[str]) -> Iterator[np.ndarray]:
    """Photos of the set embedded_faces, uint8 (H, W, 3) RGB, by their names there; InputError for one it lacks."""
    _, images = origins.raw_images(catalogue.find("embedded_faces"), SIDE, 0, [])
    found = {image.name: image for image in images if image.name in names}
    for name in names:
        if name not in found:
            raise InputError(f"The set embedded_faces has no {name}: name another portrait in report/gallery.py.")
        yield found[name].decode(found[name].content)


def large(draw: Callable, generators: dict[str, object], chosen: tuple = PORTRAITS) -> Image.Image:
    """A row for each person: the photo and its cartoons, drawn in full and then cut around the head.

    draw: of a generator and a photo, uint8 (H, W, 3) RGB, the cartoon, the same. generators: by style. chosen: as
    PORTRAITS.
    """
    pitch = SIDE + GAP
    sheet = Image.new("RGB", (pitch * (len(generators) + 1) - GAP, pitch * len(chosen) - GAP), "white")
    for row, (photo, (_, (left, top, side))) in enumerate(zip(portraits([n for n, _ in chosen]), chosen, strict=True)):
        for column, image in enumerate([photo, *(draw(generator, photo) for generator in generators.values())]):
            part = Image.fromarray(image).crop((left, top, left + side, top + side))
            sheet.paste(part.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (column * pitch, row * pitch))
    return sheet
