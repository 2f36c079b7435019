"""README, pages of results and model cards out of templates that read the result files.

A number is written once, to a file in results/, and nobody types it again: the pages are rendered from
`templates/*.md.j2`, in which every number is an expression. `make readme` writes them, `make verify` compares them.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import jinja2

from .. import files
from ..files import InputError, write_atomic
from ..networks import Generator, count_parameters
from ..runs.profiles import load_profile
from . import findings, tables

TEMPLATES = Path(__file__).parent / "templates"
PUBLISHED = "reference"  # the profile whose generators are in git
PAGES = {  # generated file -> its template
    "README.md": "README.md.j2",
    "results/reference/README.md": "reference.md.j2",
    "results/quick/README.md": "quick.md.j2",
    "results/bench/README.md": "bench.md.j2",
}
OF_A_PROFILE = ("data", "pretrain", "train", "ablations", "metrics", "findings")
FILES = {"reference": OF_A_PROFILE, "quick": (*OF_A_PROFILE, "performance")}  # profiles whose results are in git
MAKERS = {"bench": "make bench", "": "make soak"} | {name: f"make reproduce PROFILE={name}" for name in FILES}


class Results:
    """The result files below the root of a clone; `hashes` names those that were read, with their SHA-256."""

    def __init__(self, root: Path):
        self.root, self.hashes = root, {}

    def read(self, name: str) -> dict:
        """The content of results/<name>; InputError when it is damaged, or missing: then it says what makes it."""
        path = self.root / "results" / name
        if not path.exists():
            raise InputError(f"results/{name} is missing: {MAKERS[Path(name).parent.name]} makes it")
        text = path.read_text(encoding="utf-8")
        self.hashes[name] = hashlib.sha256(text.encode("utf-8")).hexdigest()
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"results/{name} is not valid JSON ({error})") from None


def environment() -> jinja2.Environment:
    """Jinja2 with our filters; a name that a template has and the results lack is an error."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    env.filters |= {
        "number": tables.number,
        "interval": tables.interval,
        "signed": tables.signed,
        "thousands": lambda value: f"{value:,.0f}",
        "ratio": lambda value: f"{value:.3f}",
        "percent": lambda part: f"{100 * part:.0f} %",
        "gigabytes": lambda megabytes: f"{megabytes / 1000:.1f} GB",
        "spread": lambda values: f"{values['median']:.2f} ({values['min']:.2f}-{values['max']:.2f})",
    }
    env.globals |= {"tables": tables, "findings": findings}
    return env


def page(root: Path, path: str) -> str:
    """The text of a generated page, rendered from the results below the root of a clone."""
    template, folder, results = PAGES[path], Path(path).parent.name, Results(root)
    names = {"template": f"cartoonlib/report/templates/{template}", "parameters": count_parameters(Generator())}
    if folder not in FILES:  # README.md and the page of the benchmarks
        names["bench"] = results.read("bench/cpu.json")
        names["commands"] = results.read("bench/commands.json")["commands"]
        names["soak"] = results.read("soak.json")["soak"]
    if folder != "bench":
        names |= _of_a_profile(results, folder or PUBLISHED)
    return _rendered(template, names | {"sources": results.hashes})


def card(**facts: object) -> str:
    """The card of a published generator: see templates/card.md.j2 for the facts that it needs."""
    return _rendered("card.md.j2", facts)


def cards(root: Path) -> dict[str, str]:
    """Style -> the card of its generator, rendered from the published results below the root of a clone."""
    results, texts = _of_a_profile(Results(root), PUBLISHED), {}
    for style, run in results["train"].items():
        path = weights_path(root, style)
        texts[style] = card(
            style=style,
            path=path,
            sha256=sha256(path),
            faces=results["data"]["faces"],
            cartoons=results["data"][style],
            profile=load_profile(PUBLISHED),
            pretrain_steps=results["pretrain"]["steps"],
            run=run,
            weights=run["weights"],
            commit=results["environment"]["commit"],
            rows=[row for row in results["rows"] if row["style"] == style and row["group"] in ("photo", "style")],
        )
    return texts


def write(root: Path = files.ROOT) -> list[Path]:
    """Write all generated pages and cards below the root of a clone; returns their paths.

    A card vouches for a file of weights, so one that does not name the file's SHA-256 is not written over.
    """
    new = {root / path: page(root, path) for path in PAGES}
    for style in Results(root).read(f"{PUBLISHED}/train.json")["train"]:
        if not vouched(weights_path(root, style)):
            raise InputError(f"{style}.safetensors is not the file that {style}.md describes: fetch both again.")
    new |= {weights_path(root, style).with_suffix(".md"): text for style, text in cards(root).items()}
    for path, text in new.items():
        write_atomic(path, text)
    return list(new)


def weights_path(root: Path, style: str) -> Path:
    """The file of a published generator; its card lies beside it."""
    return root / "results" / PUBLISHED / "generators" / f"{style}.safetensors"


def vouched(weights: Path) -> bool:
    """Whether the card beside a file of weights names its SHA-256."""
    known = weights.with_suffix(".md")
    return weights.exists() and known.exists() and sha256(weights) in known.read_text(encoding="utf-8")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rendered(template: str, names: dict) -> str:
    try:
        return environment().get_template(template).render(names)
    except jinja2.UndefinedError as error:
        raise InputError(f"{template} names a result that is not there ({error.message})") from None


def _of_a_profile(results: Results, profile: str) -> dict:
    """The names that a template of a profile's results may use."""
    contents = {name: results.read(f"{profile}/{name}.json") for name in FILES[profile]}
    found, rows = contents["findings"]["findings"], contents["metrics"]["metrics"]
    return found | {
        "environment": contents["metrics"]["environment"],
        "rows": rows,
        **{name: contents[name][name] for name in FILES[profile] if name not in ("ablations", "metrics", "findings")},
        "styles": {style: _style(style, run, rows) for style, run in contents["train"]["train"].items()},
        "variants": _by_variant(row for row in rows if row["group"] not in tables.GROUPS_OF_STYLES),
        "against": {
            reference: _by_variant(row for row in found["differences"] if row["reference"] == reference)
            for reference in {row["reference"] for row in found["differences"]}
        },
    }


def _style(style: str, run: dict, rows: list[dict]) -> dict:
    """What the full method reaches in a style: its rows of metrics, their ratio to the photo's, and its run."""
    ours, photo, cartoons = (
        {row["metric"]: row for row in rows if row["style"] == style and row["group"] == group}
        for group in ("style", "photo", "cartoons")
    )
    ratio = ours["kid_cartoon"]["value"] / photo["kid_cartoon"]["value"]
    return ours | {"kid_ratio": ratio, "run": run, "photo": photo, "cartoons": cartoons}


def _by_variant(rows: Iterable[dict]) -> dict[str, dict[str, dict]]:
    """Variant -> metric -> row."""
    found = {}
    for row in rows:
        found.setdefault(row["variant"], {})[row["metric"]] = row
    return found
