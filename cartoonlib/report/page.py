"""Executed notebooks joined to results/<profile>/report.html, one file to be read offline; see templates/page.*."""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import PIL.Image
from math_core import LatexToMathML
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from .. import files
from ..files import InputError, write_atomic
from . import render


def notebooks_in(folder: Path) -> list[Path]:
    """The report's notebooks in their order; copies that a user made, such as 04_train-Copy1, are none of them."""
    return sorted(path for path in folder.glob("*.ipynb") if re.fullmatch(r"\d\d_[a-z_]+", path.stem))


def join(profile: str) -> Path:
    """Join the executed notebooks of a profile into one HTML page that asks no network for anything."""
    folder = files.RESULTS / profile
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in notebooks_in(folder / "notebooks")}
    if not notebooks:
        raise InputError(f"No executed notebook of profile {profile} yet: make reproduce PROFILE={profile} makes them.")
    try:
        abstract = render.rendered("abstract.md.j2", render.of_a_profile(render.Results(files.RESULTS), profile))
    except InputError as problem:
        abstract = f"There is no summary: {problem}."
    names = {
        "folder": folder, "notebooks": notebooks, "abstract": abstract, "picture": picture, "plain": strip_ansi,
        "texts": {stem: Text(stem, list(notebooks)) for stem in ("abstract", *notebooks, "certificate")},
    }  # fmt: skip
    write_atomic(folder / "report.html", render.rendered("page.html.j2", names))
    return folder / "report.html"


class Text(IPythonRenderer):
    """Markdown as HTML, for the section `stem` of the page: formulas become MathML, headings go down a level.

    `sections`: (anchor, title in HTML, level in the markdown) of every heading so far; links lead to `pages`, or out.
    """

    def __init__(self, stem: str, pages: list[str]):
        super().__init__(escape=False)
        self.stem, self.pages, self.sections = stem, pages, []
        self.formulas = LatexToMathML(continue_on_error=True, fancy_error=False)

    def html(self, markdown: str) -> str:
        return MarkdownWithMath(renderer=self).render(markdown)

    def inline_math(self, body: str) -> str:
        return self.formulas.convert_with_local_state(body, displaystyle=False)

    def block_math(self, body: str) -> str:
        return self.formulas.convert_with_local_state(body, displaystyle=True)

    def heading(self, text: str, level: int, **attributes) -> str:
        anchor = f"{self.stem}-{len(self.sections)}" if self.sections else self.stem
        self.sections.append((anchor, text, level))
        return f'<h{level + 1} id="{anchor}">{text}</h{level + 1}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Notebooks are sections of the page; a file of the project is named, for a page that is sent lacks it."""
        stem, path = url.partition("#")[0].removesuffix(".ipynb"), os.path.normpath(f"notebooks/{url}")
        if stem in self.pages or re.match("https?:", url):
            return super().link(text, f"#{stem}" if stem in self.pages else url, title)
        return text if text in path else f'{text} <span class="path">{path.replace("#L", ", line ")}</span>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return super().image(text, url, title) if url.startswith("attachment:") else text

    def table(self, text: str) -> str:
        text = re.sub(r" (\[[^<\]]+\])", r' <span class="interval">\1</span>', text)
        return f'<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>{text}</table></div>\n'


def picture(source: str | Path) -> dict:
    """Size and address of a picture, a file or in base64, as WebP: half of its JPEG, and nobody sees the difference."""
    image = PIL.Image.open(source if isinstance(source, Path) else io.BytesIO(base64.b64decode(source)))
    image.convert("RGBA").save(light := io.BytesIO(), "WEBP", quality=90)
    address = "data:image/webp;base64," + base64.b64encode(light.getvalue()).decode("ascii")
    return {"width": image.width, "height": image.height, "src": address}
