"""The page of a profile: one file that asks no network for anything, with contents, captions and formulas.

It is made of the executed notebooks of `reference`, which are in git, and of small ones for what those lack.
"""

import base64
import io
import json
import re
import shutil

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from cartoonlib import files
from cartoonlib.files import InputError
from cartoonlib.report import page as pages
from cartoonlib.report import render, tables
from cartoonlib.report.page import join, notebooks_in

MOST_MB = 12
LATEX = re.compile(r"\$[^$\n]+\$|\\[a-zA-Z]{2,}")  # a formula between dollars, or a command


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The path of the page of `reference`, made of copies of its executed notebooks, and of its results."""
    results = tmp_path_factory.mktemp("results")
    kept = files.RESULTS / "reference"
    (results / "reference").mkdir()
    for name in ("notebooks", "figures", *(path.name for path in kept.glob("*.json"))):
        (results / "reference" / name).symlink_to(kept / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "RESULTS", results)
        return join("reference")


@pytest.fixture(scope="module")
def html(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def picture(color: str, width: int = 60) -> str:
    content = io.BytesIO()
    Image.new("RGB", (width, 40), color).save(content, "JPEG")
    return base64.b64encode(content.getvalue()).decode("ascii")


def shown(source: str, *outputs: dict):
    """A cell that displayed something, by type of media."""
    return new_code_cell(source, outputs=[new_output("display_data", data=data) for data in outputs])


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """A function: the page of profile `mine`, out of cells by the names of their notebooks."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    folder = tmp_path / "mine" / "notebooks"
    folder.mkdir(parents=True)

    def page_of(widgets: dict | None = None, **notebooks):
        for stem, cells in notebooks.items():
            metadata = {"widgets": {"application/vnd.jupyter.widget-state+json": {"state": widgets}}} if widgets else {}
            nbformat.write(new_notebook(cells=cells, metadata=metadata), folder / f"{stem}.ipynb")
        return BeautifulSoup(join("mine").read_text(encoding="utf-8"), "html.parser")

    return page_of


# --- the page of `reference` ------------------------------------------------------------------------------------------


def test_it_is_one_file_of_a_size_that_can_be_sent(page):
    assert page.stat().st_size < MOST_MB * 1e6


def test_it_names_no_resource_outside_of_itself(html):
    for tag in html.find_all(src=True):
        assert tag["src"].startswith("data:"), tag.name
    assert all(link["href"].startswith("data:") for link in html.find_all("link"))
    assert not re.search(r"@import|url\(", html.style.string)
    assert not re.search(r"fetch|XMLHttp|import\s*\(|https?:", html.script.string)


def test_every_link_leads_to_an_anchor_or_out_to_the_web(html):
    anchors = [tag["id"] for tag in html.find_all(id=True)]
    assert len(anchors) == len(set(anchors))
    for link in html.find_all("a"):
        target = link["href"]
        assert target.startswith("https://") or target.removeprefix("#") in anchors, target


def test_contents_list_every_notebook_and_its_headings(html):
    listed = [link["href"] for link in html.nav.find_all("a")]
    assert [link for link in listed if "-" not in link] == [
        "#abstract", *(f"#{path.stem}" for path in notebooks_in(files.RESULTS / "reference" / "notebooks"))
    ]  # fmt: skip
    assert len(set(listed)) == len(listed) == 1 + len(html.main.find_all("h2")) + len(html.main.find_all("h3"))


def test_headings_go_down_a_level_at_a_time(html):
    levels = [int(tag.name[1]) for tag in html.find_all(re.compile(r"^h\d$"))]
    assert levels[0] == 1 and 1 not in levels[1:]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))


def test_every_figure_has_a_number_a_caption_and_a_text_for_who_cannot_see_it(html):
    figures = html.find_all("figure")
    assert len(figures) > 25
    for number, figure in enumerate(figures, start=1):
        label, text = figure.figcaption.b, figure.figcaption.get_text()
        assert label.string == f"Figure {number}." and len(text) > len(label.string) + 15, text
    pictures = html.select("header img, main img")
    assert all(len(image["alt"]) > 15 and image["width"] and image["height"] for image in pictures)
    assert all(image.find_parent("figure") for image in pictures)


def test_formulas_are_mathml_and_no_latex_is_left(html):
    text = BeautifulSoup(str(html), "html.parser")
    for tag in text.select("code, pre, script, style"):
        tag.decompose()
    assert not LATEX.findall(text.get_text())
    assert not html.select(".math-core-error") and len(html.find_all("math")) > 25


def test_code_is_folded_and_values_stay_with_it(html):
    assert len(html.select("details.code .highlight")) > 90
    assert not html.select("details.code[open]")
    assert all(code.find_parent("details", class_="code") for code in html.select("main .highlight"))
    environments = [text for text in html.select("pre.out") if "'python':" in text.get_text()]
    assert environments and all(text.find_parent("details", class_="code") for text in environments)


def test_the_abstract_has_the_numbers_of_the_result_files(html):
    rows = render.Results(files.RESULTS).part("reference", "metrics")
    section = html.find(id="abstract")
    text, table = (re.sub(r"\s+", " ", part.get_text(" ")) for part in (section, section.table))
    found = {}
    for metric in ("style_distance", "landmark_error", "likeness", "flatness"):
        styles = [row for row in rows if row["group"] == "style" and row["metric"] == metric]
        assert styles and all(tables.interval(row) in table for row in styles), metric
        found[metric] = sorted(row["value"] for row in styles)
    least, most = (tables.number(found["style_distance"][end]) for end in (0, -1))
    goals = render.Results(files.RESULTS).part("reference", "findings")["goals"]
    assert f"On {rows[0]['n']} held-out photos its pictures lie at {least} to {most} of" in text
    assert f"move by at most {tables.number(found['landmark_error'][-1])} of" in text
    assert f"Of {len(goals)} goals, {sum(goal['met'] is True for goal in goals)} are met" in text


def test_every_figure_of_the_notebooks_has_a_caption_of_its_own():
    captions = render.ENVIRONMENT.get_template("page.captions.j2").module.captions
    for path in notebooks_in(files.NOTEBOOKS):
        source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        for name in re.findall(r'report\.figure\(\s*f?"(\w+)', source):
            assert name in captions, f"{path.name}: templates/page.captions.j2 has no caption for {name}"


# --- pages of small notebooks -----------------------------------------------------------------------------------------


def test_notebooks_come_in_their_order_and_copies_of_them_do_not(joined):
    cells = {name: [new_code_cell("1", outputs=[new_output("stream", text=f"said by {name}")])] for name in
             ("02_b", "01_a", "01_a-Copy1")}  # fmt: skip
    html = joined(**cells)
    assert [text.string for text in html.select("pre.out")] == ["said by 01_a", "said by 02_b"]
    assert [link["href"] for link in html.nav.find_all("a")] == ["#abstract", "#01_a", "#02_b"]
    assert html.find(id="01_a") and html.find(id="02_b")
    missing = html.find(id="abstract").get_text()
    assert "results/mine/data.json is missing: make reproduce PROFILE=mine makes it" in missing


def test_joining_nothing_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    with pytest.raises(InputError, match="make reproduce PROFILE=quick"):
        join("quick")


def test_links_between_notebooks_are_anchors_and_files_are_named(joined):
    source = """# First
[b](02_b.ipynb), [c](03_c.ipynb), [`losses.f`](../cartoonlib/losses.py#L7), [profiles/own.yaml](../profiles/own.yaml),
[paper](https://example.org/a), ![far](https://example.org/far.png)"""
    html = joined(**{"01_a": [new_markdown_cell(source)], "02_b": [new_markdown_cell("# Second")]})
    section = html.main.section
    assert {link.string: link["href"] for link in section.find_all("a")} == {
        "b": "#02_b", "paper": "https://example.org/a"
    }  # fmt: skip
    assert [path.string for path in section.select(".path")] == ["cartoonlib/losses.py, line 7"]
    assert "c, losses.f" in section.get_text() and "profiles/own.yaml,\npaper, far" in section.get_text()
    assert not section.find("img")


def test_an_attached_picture_is_shown_and_a_formula_that_is_none_is_marked(joined):
    cell = new_markdown_cell("![mine](attachment:a.jpg) $\\nosuch{x}$ $$y^2$$")
    cell.attachments = {"a.jpg": {"image/jpeg": picture("red")}}
    html = joined(**{"01_a": [cell]})
    assert html.main.img["src"].startswith("data:image/jpeg;base64,")
    assert "nosuch" in html.select(".math-core-error")[0].get_text()
    assert html.find("math", display="block").msup


def test_pictures_of_a_loop_are_one_figure_and_others_their_own(joined):
    red, blue = {"image/jpeg": picture("red", 30)}, {"image/jpeg": picture("blue", 50)}
    loop = shown('for style in styles:\n    report.figure(f"training_{style}", strip)', red, blue)
    two = shown('report.figure("gallery", a)\nsave(sheet, folder / "figures" / "gallery_large.png")', red, blue)
    own = shown('report.figure("my_own", a)', red)
    html = joined(**{"01_a": [new_markdown_cell("# One\n## Two & three"), loop, two, own, shown("plt.show()", blue)]})
    captions = render.ENVIRONMENT.get_template("page.captions.j2").module.captions
    figures = html.find_all("figure")
    assert [[image["width"] for image in figure.find_all("img")] for figure in figures] == [
        ["30", "50"], ["30"], ["50"], ["30"], ["50"]
    ]  # fmt: skip
    texts = [figure.figcaption.get_text() for figure in figures]
    assert texts[0] == f"Figure 1. {captions['training_'][0]}" and captions["gallery"][0] in texts[1]
    assert texts[3:] == ["Figure 4. Two & three: my own.", "Figure 5. Two & three."]
    assert figures[0].img["alt"] == f"{captions['training_'][1]} (1 of 2)"


def test_values_stay_with_the_code_and_what_is_displayed_is_shown(joined):
    cell = new_code_cell("noisy(); 7", outputs=[
        new_output("execute_result", data={"text/plain": "7 & more"}),
        new_output("stream", name="stderr", text="a warning"),
        new_output("display_data", data={"text/plain": "{'a': 1}"}),
        new_output("display_data", data={"text/html": "<b>bold</b>", "text/plain": "bold"}),
    ])  # fmt: skip
    html = joined(**{"01_a": [new_code_cell("import os"), cell]})
    (code,) = html.select("details.code")
    assert code.summary.string == "Code and value" and "import os" in code.get_text()
    assert [text.string for text in code.select(".out")] == ["7 & more", "a warning"]
    code.extract()
    assert [text.string for text in html.select(".out")] == ["{'a': 1}"] and html.main.b.string == "bold"


def test_a_picture_keeps_its_size_and_its_colours():
    found = pages.picture(picture("#c08040", 300))
    content = base64.b64decode(found["src"].removeprefix("data:image/webp;base64,"))
    image = Image.open(io.BytesIO(content)).convert("RGB")
    assert (image.size, found["width"], found["height"]) == ((300, 40), 300, 40)
    assert all(abs(a - b) <= 3 for a, b in zip(image.getpixel((150, 20)), (0xC0, 0x80, 0x40)))


def test_widgets_are_shown_as_they_stood(joined):
    model = {"model_id": "box"}
    state = {
        "box": {"model_name": "VBoxModel",
                "state": {"children": ["IPY_MODEL_eps", "IPY_MODEL_style", "IPY_MODEL_row"]}},
        "eps": {"model_name": "FloatSliderModel", "state": {"description": "eps", "value": 0.2}},
        "style": {"model_name": "DropdownModel",
                  "state": {"description": "Style", "index": 1, "_options_labels": ["anime", "comic"]}},
        "row": {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_image", "IPY_MODEL_label"]}},
        "image": {"model_name": "ImageModel", "state": {},
                  "buffers": [{"path": ["value"], "data": picture("red"), "encoding": "base64"}]},
        "label": {"model_name": "LabelModel", "state": {"description": "", "value": "half & half"}},
    }  # fmt: skip
    html = joined(state, **{"01_a": [shown("display(box)", {"application/vnd.jupyter.widget-view+json": model})]})
    (figure,) = html.find_all("figure")
    assert [control.string for control in figure.select(".control")] == ["eps: 0.2", "Style: comic"]
    assert figure.img["width"] == "60" and figure.select(".note")[0].string == "half & half"
    assert "they work in JupyterLab" in figure.figcaption.get_text()


def test_tables_scroll_and_intervals_stand_apart(joined):
    table = {"text/markdown": "| a | b |\n| --- | ---: |\n| x | 1.5 [1.2, 1.8] |", "text/plain": "<Markdown>"}
    html = joined(**{"01_a": [shown("Markdown(table)", table)]})
    assert html.main.table.find_parent(class_="scroll")["tabindex"] == "0"
    assert html.select("td .interval")[0].string == "[1.2, 1.8]"


def test_the_certificate_is_a_section_of_its_own(joined, tmp_path):
    text = "## Certificate of reproduction\n\n**7 numbers: 7 equal to the bit.**\n"
    (tmp_path / "mine" / "certificate.md").write_text(text, encoding="utf-8")
    html = joined(**{"01_a": [new_markdown_cell("# One")]})
    assert html.find(id="certificate").name == "h2" and "7 equal to the bit" in html.main.get_text()
    assert html.nav.find_all("a")[-1]["href"] == "#certificate"


# --- in a browser, without a network ----------------------------------------------------------------------------------

chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    """Chromium with the page of `reference` open, and no network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the page is tried with selenium: make .venv/ready")
    if not (chromium and driver):
        pytest.skip("needs Chromium: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for option in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                   "disable-component-update", "disable-sync", "host-resolver-rules=MAP * ~NOTFOUND",
                   f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{option}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        conditions = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
        browser.get(page.as_uri())
        yield browser
    finally:
        browser.quit()


@pytest.fixture
def screen(browser):
    """A function that sets the width of the screen, and what is preferred: a colour scheme, or paper."""

    def set_to(width: int, scheme: str = "light", media: str = "screen") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    set_to(1280)
    return set_to


def style(browser, selector: str, name: str) -> str:
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    return browser.execute_script(script, selector, name)


def test_a_browser_without_network_shows_it_whole(browser, screen, page):
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [event["params"]["request"]["url"] for event in requests]
    own = ("data:", "chrome:", "chrome-untrusted:")  # the last two are the browser's, for the tab that it opens with
    asked = asked[asked.index(page.as_uri()) :]
    assert [url for url in asked if not url.startswith(own)] == [page.as_uri()]
    ours = {event["params"]["requestId"] for event in requests if event["params"]["request"]["url"] == page.as_uri()}
    failed = [event["params"] for event in events if event["method"] == "Network.loadingFailed"]
    assert not [event for event in failed if event["requestId"] in ours]
    assert not browser.get_log("browser")
    images = browser.execute_script("return [...document.images].filter(i => i.src).map(i => i.naturalWidth)")
    assert len(images) > 40 and all(images)


def test_a_browser_shows_formulas_and_no_latex(browser, screen):
    browser.execute_script("document.querySelectorAll('code, pre').forEach(code => { code.hidden = true; })")
    text = browser.execute_script("return document.body.innerText")
    browser.execute_script("document.querySelectorAll('code, pre').forEach(code => { code.hidden = false; })")
    assert not LATEX.findall(text)
    heights = "return [...document.querySelectorAll('main math')].map(m => m.getBoundingClientRect().height)"
    found = browser.execute_script(heights)
    assert min(found) > 5 and max(found) < 60


@pytest.mark.parametrize("width", [360, 400, 800, 1280, 1920])
def test_nothing_but_tables_and_code_is_wider_than_the_screen(browser, screen, width):
    screen(width)
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth") == 0


def test_contents_fold_away_on_a_phone(browser, screen):
    opened = "return document.getElementById('contents').open"
    assert browser.execute_script(opened)
    screen(400)
    assert not browser.execute_script(opened)
    browser.execute_script("document.querySelector('#contents summary').click()")
    assert browser.execute_script(opened)
    browser.execute_script("document.querySelector('#contents a[href=\"#04_train\"]').click()")
    assert not browser.execute_script(opened) and browser.execute_script("return location.hash") == "#04_train"
    screen(1280)
    assert browser.execute_script(opened)


def test_one_switch_shows_and_hides_all_code(browser, screen):
    shown = "return [...document.querySelectorAll('details.code')].filter(code => code.open).length"
    assert browser.execute_script(shown) == 0
    browser.execute_script("document.getElementById('all-code').click()")
    assert browser.execute_script(shown) == browser.execute_script(
        "return document.querySelectorAll('details.code').length"
    )
    browser.execute_script("document.getElementById('all-code').click()")
    assert browser.execute_script(shown) == 0


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_figures_stand_on_white(browser, screen, scheme):
    screen(1280, scheme)
    paper = luminance(style(browser, "body", "backgroundColor"))
    assert (paper < 0.1) == (scheme == "dark")
    assert style(browser, ".card", "backgroundColor") == "rgb(255, 255, 255)"
    for selector in ("main p", "main p a", "figcaption", ".code > summary", ".path", "nav ol ol a", "nav a", ".out"):
        low, high = sorted([paper, luminance(style(browser, selector, "color"))])
        assert (high + 0.05) / (low + 0.05) > 4.5, selector


def test_paper_has_contents_and_whole_figures_and_no_code(browser, screen):
    screen(700, media="print")
    assert style(browser, ".code", "display") == style(browser, "#all-code", "display") == "none"
    assert style(browser, "figure", "breakInside") == "avoid" and style(browser, "nav", "position") == "static"
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.querySelectorAll('details:not(.code):not([open])').length") == 0
    assert browser.execute_script("return document.querySelector('nav ol').getBoundingClientRect().height") > 100
