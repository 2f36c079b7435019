"""`make demo` in a real browser: a photo is given, the slider moved, and the picture that comes back compared."""

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from cartoonlib import files
from cartoonlib.photos import page, shipped
from cartoonlib.photos.draw import cartoonize

webdriver = pytest.importorskip("selenium.webdriver", reason="the page is tried with selenium: make .venv/ready")
chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (chromium and driver and shipped.styles()), reason="needs Chromium: apt install chromium chromium-driver"
)

# The pixels of the n-th image of the page, as a PNG.
PIXELS = """
const image = document.querySelectorAll("img.widget-image")[arguments[0]];
if (!image || !image.complete || !image.naturalWidth) return null;
const canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
canvas.getContext("2d").drawImage(image, 0, 0);
return canvas.toDataURL("image/png").split(",")[1];
"""

# What the page has asked for.
ADDRESSES = """
return performance.getEntriesByType("resource").filter(entry => entry.responseStatus).map(entry => entry.name)
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the page that `make demo` serves, with its token."""
    log = tmp_path_factory.mktemp("demo") / "log"
    read = partial(log.read_text, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "JUPYTER_TOKEN"}
    environment["CARTOONLIB_RESULTS"] = str(log.parent)
    command = ["make", "-o", ".venv/ready", "demo", f"BIN={Path(sys.executable).parent}"]
    with log.open("w", encoding="utf-8") as output:
        server = subprocess.Popen(
            command, cwd=files.ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield wait(lambda: re.search(r"http://127\.0\.0\.1:\d+/\?token=\w+", read()), read)[0]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for option in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", f"user-data-dir={profile}",
                   "disable-background-networking", "disable-component-update", "disable-sync"):  # fmt: skip
        options.add_argument(f"--{option}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_window_size(1400, 1000)
    try:
        browser.get(address)
        yield browser
    finally:
        browser.quit()


def wait(condition, explain, seconds: float = 120):
    """The condition's value, as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s in vain: {explain()}")


def picture(browser, number: int) -> np.ndarray | None:
    png = browser.execute_script(PIXELS, number)
    return None if png is None else np.array(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def upload(browser, path: Path) -> None:
    """Choose a file behind the page's button, whose input lies outside the page and would open a window."""
    browser.execute_script("HTMLInputElement.prototype.click = function () { document.body.append(this); };")
    browser.find_element("css selector", ".widget-upload").click()
    browser.find_element("css selector", "input[type=file]").send_keys(str(path))


def shows(browser, number: int, expected: np.ndarray) -> None:
    """Wait until the n-th image is what is expected, to one step of 255."""

    def same() -> bool:
        seen = picture(browser, number)
        return seen is not None and seen.shape == expected.shape and np.abs(seen.astype(int) - expected).max() <= 1

    wait(same, lambda: f"image {number} is {getattr(picture(browser, number), 'shape', None)}", 60)


def test_the_page_draws_the_photo_that_is_given_at_the_strength_that_is_chosen(browser, tmp_path):
    astronaut = skimage.data.astronaut()
    wait(lambda: picture(browser, 1) is not None, lambda: browser.page_source[-2000:])
    shows(browser, 0, astronaut)

    photo = astronaut[0:201, 120:331]  # an odd size
    Image.fromarray(photo).save(tmp_path / "mine.png")
    upload(browser, tmp_path / "mine.png")
    generator = shipped.load(shipped.styles()[0])
    shows(browser, 0, photo)
    shows(browser, 1, cartoonize(generator, photo))

    handle = browser.find_element("css selector", ".noUi-handle")
    for _ in range(10):  # from 1 in steps of 0.05
        handle.send_keys("\ue012")  # the left arrow
    shows(browser, 1, cartoonize(generator, photo, strength=0.5))


def test_a_file_that_is_no_photo_is_named_on_the_page_and_the_last_picture_stays(browser, tmp_path):
    wait(lambda: picture(browser, 1) is not None, lambda: browser.page_source[-2000:])
    before = picture(browser, 1)
    (tmp_path / "notes.png").write_text("this is text", encoding="utf-8")
    upload(browser, tmp_path / "notes.png")
    wait(lambda: "notes.png:" in browser.find_element("tag name", "body").text, lambda: "no sentence", 30)
    assert np.array_equal(picture(browser, 1), before)


def test_the_page_is_for_this_machine_and_for_those_who_have_its_token(address):
    with urllib.request.urlopen(address) as answer:
        assert "login" not in answer.url
    plain = address.split("?")[0]
    for place in ("", "api/kernels"):
        with urllib.request.urlopen(plain + place) as answer:
            assert "login" in answer.url
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(plain + "voila/files/pictures.png")


def test_the_page_asks_nobody_else_for_anything_and_takes_large_photos(browser, tmp_path):
    wait(lambda: picture(browser, 1) is not None, lambda: browser.page_source[-2000:])
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 11e6
    upload(browser, tmp_path / "large.png")
    light = Image.fromarray(noise)
    light.thumbnail((page.SHOWN_SIDE, page.SHOWN_SIDE))
    shows(browser, 0, np.array(light))
    asked = browser.execute_script(ADDRESSES)
    assert asked and all(name.startswith(("http://127.0.0.1", "data:", "blob:")) for name in asked)
