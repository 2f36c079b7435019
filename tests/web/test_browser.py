"""`make page` in a real browser, from the disk and from a server: what it draws beside what Python draws."""

import base64
import functools
import http.server
import json
import re
import shutil
import threading
import time

import numpy as np
import pytest
import skimage.data
from PIL import Image

from cartoonlib.files import InputError
from cartoonlib.media.pictures import read_picture
from cartoonlib.photos import draw, shipped

webdriver = pytest.importorskip("selenium.webdriver", reason="the page is tried with selenium: make .venv/ready")
chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
missing = pytest.mark.skipif(
    not (chromium and driver and shipped.styles()), reason="needs Chromium: apt install chromium chromium-driver"
)
pytestmark = [missing, pytest.mark.slow]
STYLES = ["cartoonset", "comic"]  # that the page of these tests has
AT_MOST = 20  # s for 512 px: it takes 2 on two idle cores, and tests run beside others

# The pixels of the photo or the cartoon as the page has them, and what is said beside them.
STATE = """
const text = id => document.getElementById(id).textContent;
return {busy: document.body.classList.contains("busy"), status: text("status"), command: text("command"),
        problem: document.getElementById("problem").hidden ? "" : text("problem"),
        name: photo?.name, scale: photo?.scale, face: photo?.face, seconds: shown?.seconds};
"""
PIXELS = """
const picture = arguments[0] === "photo" ? photo : {...shown.photo, data: shown.data};
let letters = "";
for (let i = 0; i < picture.data.length; i += 30000) {
  letters += String.fromCharCode(...picture.data.subarray(i, i + 30000));
}
return [btoa(letters), picture.height, picture.width];
"""
CHOOSE = """
const [name, value] = arguments;
const input = document.querySelector(`[name=${name}][type=range], [name=${name}][value="${value}"]`);
if (input.type === "radio") input.checked = true; else input.value = value;
input.dispatchEvent(new Event("input", {bubbles: true}));
"""
ASKED = 'return performance.getEntriesByType("resource").map(entry => entry.name)'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page, with two styles."""
    from cartoonlib.web import __main__ as web

    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "styles", lambda: STYLES)
        try:
            web.main(folder)
        except InputError as error:
            if "npm could not fetch" not in str(error):
                raise
            pytest.skip(f"needs the network once: {error}")
    return folder


class Page:
    """A page in a browser of its own."""

    def __init__(self, address: str, profile):
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for option in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", f"user-data-dir={profile}",
                       "disable-background-networking", "disable-component-update", "disable-sync"):  # fmt: skip
            options.add_argument(f"--{option}")
        self.browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.browser.get(address)
        self.wait()

    def state(self) -> dict:
        return self.browser.execute_script(STATE)

    def wait(self, name: str = "collins.png", seconds: float = 120) -> dict:
        """The page's state when it is done with a photo, or has said what is wrong."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.state()
            if state["problem"] or (state["name"] == name and not state["busy"]):
                return state
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds} s in vain: {state}")

    def give(self, path) -> dict:
        """Choose a file."""
        self.browser.find_element("id", "file").send_keys(str(path))
        return self.wait(path.name)

    def choose(self, name: str, value) -> dict:
        before = self.state()["name"]
        self.browser.execute_script(CHOOSE, name, value)
        return self.wait(before)

    def pixels(self, which: str) -> np.ndarray:
        letters, height, width = self.browser.execute_script(PIXELS, which)
        return np.frombuffer(base64.b64decode(letters), np.uint8).reshape(height, width, 4)


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    """The page from the disk."""
    page = Page((folder / "index.html").as_uri(), tmp_path_factory.mktemp("chromium"))
    try:
        yield page
    finally:
        page.browser.quit()


@pytest.fixture(autouse=True)
def as_it_opens(request):
    """Full strength, the usual lines and the first style for the next photo."""
    if "page" in request.fixturenames:
        request.getfixturevalue("page").browser.execute_script("document.getElementById('choices').reset()")


@functools.cache
def generator(style: str):
    return shipped.load(style)


def saved(picture: np.ndarray, path, **options):
    Image.fromarray(picture).save(path, **options)
    return path


def is_drawn_as_python_draws(page: Page, path, style: str, strength: float = 1.0, scale: float | None = None) -> None:
    """Photo and cartoon on the page are those of Python; where they are seen, for transparent pixels have no colour."""
    photo, alpha = read_picture(path)
    expected = draw.cartoonize(generator(style), photo, strength, scale)
    shown, seen = page.pixels("cartoon"), 255 if alpha is None else alpha
    assert np.array_equal(page.pixels("photo")[..., :3], photo)
    assert shown.shape[:2] == expected.shape[:2] and np.array_equal(
        shown[..., 3], np.broadcast_to(seen, shown.shape[:2])
    )
    assert np.abs(shown[..., :3].astype(int) - expected).max() <= 2


# --- what it draws ---------------------------------------------------------------------------------------------------


def test_512_px_are_drawn_as_python_draws_them_and_in_time(page, tmp_path):
    path = saved(skimage.data.astronaut(), tmp_path / "mine.png")
    state = page.give(path)
    print(f"512 x 512 px: {state['seconds']:.2f} s, the networks loaded")
    assert state["seconds"] < AT_MOST
    assert state["command"] == "cartoonize mine.png --style cartoonset"
    is_drawn_as_python_draws(page, path, "cartoonset")


def test_style_and_strength_are_those_that_are_chosen_and_none_gives_the_photo_back(page, tmp_path):
    path = saved(skimage.data.astronaut()[0:201, 120:331], tmp_path / "odd.png")  # an odd size
    page.give(path)
    page.choose("style", "comic")
    state = page.choose("strength", 45)
    assert state["command"] == "cartoonize odd.png --style comic --strength 0.45"
    is_drawn_as_python_draws(page, path, "comic", 0.45)
    page.choose("strength", 0)
    assert np.array_equal(page.pixels("cartoon"), page.pixels("photo"))


def test_a_large_photo_is_drawn_at_pythons_scale_and_is_as_sharp(page, tmp_path):
    """12 megapixels, whose face is far too large for the network: by coefficients out of a smaller view."""
    large = Image.fromarray(skimage.data.astronaut()).resize((4000, 3000), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, 6, (3000, 4000, 1))
    path = saved(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8), tmp_path / "large.png")
    state = page.give(path)
    scale, _faces = draw.usual_scale([read_picture(path)[0]])
    assert state["scale"] == pytest.approx(scale, rel=1e-3) and state["scale"] < 0.2
    is_drawn_as_python_draws(page, path, "cartoonset", scale=state["scale"])


def test_a_view_of_many_tiles_has_no_seam(page, tmp_path):
    """A photo without a face, the network seeing it at twice the usual size."""
    coffee = skimage.data.coffee().repeat(2, axis=0).repeat(2, axis=1)[:640, :720]
    path = saved(coffee, tmp_path / "coffee.png")
    page.give(path)
    state = page.choose("lines", 1)
    assert state["face"] == 0 and state["scale"] == 1
    assert state["command"] == "cartoonize coffee.png --style cartoonset --scale 1.000"
    is_drawn_as_python_draws(page, path, "cartoonset", scale=1)


def test_a_turned_photo_and_a_transparent_one_are_read_as_python_reads_them(page, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = saved(skimage.data.astronaut()[:300, 100:340], tmp_path / "turned.jpg", exif=exif, quality=95)
    page.give(path)
    is_drawn_as_python_draws(page, path, "cartoonset")

    y, x = np.mgrid[:300, :240]
    alpha = np.clip(400 - 2.5 * np.hypot(y - 120, x - 120), 0, 255).astype(np.uint8)
    path = saved(np.dstack([skimage.data.astronaut()[:300, 100:340], alpha]), tmp_path / "clear.png")
    page.give(path)
    is_drawn_as_python_draws(page, path, "cartoonset")


def test_the_cartoon_is_saved_whole_and_named_after_photo_style_and_strength(page, tmp_path):
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.give(saved(skimage.data.astronaut()[:200, :300], tmp_path / "mine.png"))
    page.choose("strength", 70)
    page.browser.find_element("id", "save").click()
    path = tmp_path / "mine-cartoonset-70.png"
    end = time.monotonic() + 30
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert np.array_equal(read_picture(path)[0], page.pixels("cartoon")[..., :3])


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("notes.png", b"this is text", "notes.png cannot be read as a picture: choose a JPEG"),
        ("nothing.jpg", b"", "nothing.jpg is empty: choose another file."),
        ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(40), "phone.heic is HEIC, which this browser does not read:"),
        ("tiny.png", None, "tiny.png is 15 × 40 px, and 16 each way are needed: choose a larger picture."),
    ],
)  # fmt: skip
def test_a_bad_file_gets_a_sentence_and_the_last_picture_stays(name, content, sentence, page, tmp_path):
    before = page.pixels("cartoon")
    if content is None:
        saved(np.zeros((40, 15, 3), np.uint8), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    assert page.give(tmp_path / name)["problem"].startswith(sentence)
    assert np.array_equal(page.pixels("cartoon"), before)
    good = page.give(saved(skimage.data.astronaut()[:100, :100], tmp_path / "good.png"))
    assert good["problem"] == "" and page.pixels("cartoon").shape == (100, 100, 4)


def test_a_file_that_is_not_beside_the_page_is_named(folder, tmp_path):
    shutil.copy(folder / "index.html", tmp_path)
    page = Page((tmp_path / "index.html").as_uri(), tmp_path / "chromium")
    try:
        assert re.match(r"\w+\.js cannot be loaded: it belongs beside this page", page.state()["problem"])
    finally:
        page.browser.quit()


# --- where it runs ---------------------------------------------------------------------------------------------------


def test_it_works_from_a_server_and_asks_for_nothing_but_its_own_files(folder, tmp_path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    page = Page(address, tmp_path / "chromium")
    try:
        assert page.state()["problem"] == ""
        path = saved(skimage.data.astronaut()[:128, 150:300], tmp_path / "mine.png")
        page.give(path)
        is_drawn_as_python_draws(page, path, "cartoonset")
        asked = set(page.browser.execute_script(ASKED))
        own = {name for name in asked if not name.startswith(("data:", "blob:"))}
        assert own == {f"{address}{name}.js" for name in ("wasm", "faces", "cartoonset")}
        refused = page.browser.execute_async_script(
            "const [address, done] = arguments; fetch(address).then(() => done('sent'), error => done(error.name))",
            address,
        )
        assert refused == "TypeError"  # the page's own policy, though the address is its own
    finally:
        page.browser.quit()
        server.shutdown()


def test_the_page_is_whole_and_light(folder):
    """All that a web server needs; a style is a file of its own, and no file is too large for one."""
    sizes = {path.name: path.stat().st_size / 1e6 for path in folder.iterdir()}
    assert sizes.keys() == {"index.html", "wasm.js", "webgpu.js", "faces.js", *(f"{style}.js" for style in STYLES)}
    assert sizes["index.html"] < 2 and sizes["wasm.js"] < 6 and sizes["comic.js"] < 4 and max(sizes.values()) < 10
    text = (folder / "index.html").read_text(encoding="utf-8")
    filters = json.loads(re.search('id="filters">(.*?)</script>', text)[1])
    assert {style: each["radius"] for style, each in filters.items()} == {
        style: generator(style).filter_radius for style in STYLES
    }
    assert "{{" not in text and "{%" not in text
