"""The page results/<profile>/report.html: executed notebooks joined to one file, to be read offline and without code.

What stands where, styles, script and captions are in templates/page.*; here is what they cannot do.
"""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import PIL.Image
from math_core import LatexToMathML
from nbconvert.filters import Highlight2HTML, strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from .. import files
from ..files import InputError, write_atomic
from . import render

# What a cell calls its pictures; a name that ends in _ is one of a loop.
NAMES = re.compile(r'(?:report\.figure\(\s*|"figures" / )f?"(\w+)')


def notebooks_in(folder: Path) -> list[Path]:
    """The report's notebooks in their order; copies that a user made, such as 04_train-Copy1, are none of them."""
    return sorted(path for path in folder.glob("*.ipynb") if re.fullmatch(r"\d\d_[a-z_]+", path.stem))


def join(profile: str) -> Path:
    """Join the executed notebooks of a profile into one HTML page that asks no network for anything."""
    folder = files.RESULTS / profile
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in notebooks_in(folder / "notebooks")}
    if not notebooks:
        raise InputError(f"No executed notebook of profile {profile} yet: make reproduce PROFILE={profile} makes them.")
    names = {
        "profile": profile, "notebooks": notebooks, "results": render.abstract(files.RESULTS, profile),
        "texts": {stem: Text(stem, list(notebooks)) for stem in ("abstract", *notebooks, "certificate")},
        "picture": picture, "names": NAMES.findall, "plain": strip_ansi, "highlight": Highlight2HTML("ipython3"),
    }  # fmt: skip
    for name in ("certificate.md", "figures/gallery_large.png"):
        names[Path(name).stem] = (folder / name).read_bytes() if (folder / name).exists() else b""
    write_atomic(folder / "report.html", render.rendered("page.html.j2", names))
    return folder / "report.html"


class Text(IPythonRenderer):
    """Markdown as HTML: formulas become MathML, headings go down a level, links lead into the page or out of it.

    `sections` has (anchor, title, level in the markdown) of the headings so far; `pages` are the names of all notebooks.
    """

    def __init__(self, stem: str, pages: list[str]):
        super().__init__(escape=False)
        self.stem, self.pages, self.sections = stem, pages, []
        self.formulas = LatexToMathML(continue_on_error=True, fancy_error=False)

    def html(self, markdown: str, attachments: dict | None = None) -> str:
        self.attachments = attachments or {}
        return MarkdownWithMath(renderer=self).render(markdown)

    def inline_math(self, body: str) -> str:
        return self.formulas.convert_with_local_state(body, displaystyle=False)

    def block_math(self, body: str) -> str:
        return self.formulas.convert_with_local_state(body, displaystyle=True)

    def heading(self, text: str, level: int, **attributes) -> str:
        title = re.sub(r"<[^>]+>", "", text)
        anchor = self.stem if level == 1 else f"{self.stem}-" + re.sub(r"\W+", "-", title.lower()).strip("-")
        if anchor in [known for known, _, _ in self.sections]:
            anchor += f"-{len(self.sections)}"
        self.sections.append((anchor, title, level))
        return f'<h{level + 1} id="{anchor}">{text}</h{level + 1}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Notebooks are sections of the page; a file of the project is named, for a page that is sent lacks it."""
        stem, path = url.partition("#")[0].removesuffix(".ipynb"), os.path.normpath(f"notebooks/{url}")
        if stem in self.pages:
            return f'<a href="#{stem}">{text}</a>'
        if re.match("https?:", url):
            return super().link(text, url, title)
        return text if text in path else f'{text} <span class="path">{path.replace("#L", ", line ")}</span>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return super().image(text, url, title) if url.startswith("attachment:") else text

    def table(self, text: str) -> str:
        text = re.sub(r" (\[[^<\]]+\])", r' <span class="interval">\1</span>', text)
        return f'<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>{text}</table></div>\n'


def picture(content: str | bytes) -> dict:
    """Size and address of a picture, in base64 or not, as WebP: half of its JPEG, and nobody sees the difference."""
    content = base64.b64decode(content) if isinstance(content, str) else content
    image, light = PIL.Image.open(io.BytesIO(content)), io.BytesIO()
    image.convert("RGBA").save(light, "WEBP", quality=90)
    source = "data:image/webp;base64," + base64.b64encode(light.getvalue()).decode("ascii")
    return {"width": image.width, "height": image.height, "src": source}
