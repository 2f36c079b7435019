"""README, pages of results and model cards out of templates that read the result files.

A number is written once, to a file in results/, and nobody types it again: the pages are rendered from
`templates/*.md.j2`, in which every number is an expression. `make readme` writes them, `make verify` compares them.
"""

import hashlib
import json
from pathlib import Path

import jinja2

from .. import files, networks
from ..profile import Profile
from ..runs.profiles import load_profile
from . import tables

PUBLISHED = "reference"  # the profile whose generators are in git
# Generated files; each has a template by the name of its folder, the first by its own.
PAGES = ("README.md", "results/reference/README.md", "results/quick/README.md", "results/bench/README.md")
OF_A_PROFILE = ("data", "pretrain", "train", "ablations", "metrics", "findings")
FILES = {"reference": (*OF_A_PROFILE, "whole"), "quick": (*OF_A_PROFILE, "performance")}  # of profiles in git
MAKERS = {"bench": "make bench", "": "make soak"}  # of the files in a folder of results/, where it is no profile's


class Results:
    """The result files of a folder; `hashes` names those that were read, with their SHA-256."""

    def __init__(self, folder: Path):
        self.folder, self.hashes = folder, {}

    def read(self, name: str) -> dict:
        """The content of a file; InputError when it is damaged, or missing: then it says what makes it."""
        path = self.folder / name
        if not path.exists():
            profile = Path(name).parent.name
            maker = MAKERS.get(profile, f"make reproduce PROFILE={profile}")
            raise files.InputError(f"results/{name} is missing: {maker} makes it")
        text = path.read_text(encoding="utf-8")
        self.hashes[name] = hashlib.sha256(text.encode("utf-8")).hexdigest()
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise files.InputError(f"results/{name} is not valid JSON ({error})") from None

    def part(self, profile: str, name: str) -> dict | list:
        """What a notebook kept as `name` for a profile."""
        return self.read(f"{profile}/{name}.json")[name]

    def weights(self, profile: str, style: str) -> Path:
        """The file of a published generator; its card lies beside it."""
        return self.folder / profile / "generators" / f"{style}.safetensors"


# Where templates are found, and how their numbers are written.
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__), undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
ENVIRONMENT.globals["tables"] = tables
ENVIRONMENT.filters |= {
    **{name: getattr(tables, name) for name in ("number", "interval", "signed", "spread")},
    "thousands": lambda value: f"{value:,.0f}",
    "percent": lambda part: f"{100 * part:.0f} %",
    "gigabytes": lambda megabytes: f"{megabytes / 1000:.1f} GB",
}


def shown(table: str, *values) -> str:
    """One of the tables of measured.md.j2, in markdown: what it is made of is said there."""
    return getattr(ENVIRONMENT.get_template("measured.md.j2").module, table)(*values)


def rendered(template: str, names: dict) -> str:
    """A page; InputError for a name that the template has and the results lack."""
    try:
        return ENVIRONMENT.get_template(template).render(names)
    except jinja2.UndefinedError as error:
        raise files.InputError(f"{template} names a result that is not there ({error.message})") from None


def page(root: Path, path: str) -> str:
    """The text of a generated page, rendered from the results below the root of a clone."""
    folder, results = Path(path).parent.name, Results(root / "results")
    template = f"{folder or 'README'}.md.j2"
    names = {"template": f"cartoonlib/report/templates/{template}"}
    names["commands"] = results.read("bench/commands.json")["commands"]
    if folder not in FILES:  # README.md and the page of the benchmarks
        names |= {"bench": results.read("bench/cpu.json"), "soak": results.read("soak.json")["soak"]}
    if folder != "bench":
        names |= of_a_profile(results, folder or PUBLISHED)
    return rendered(template, names | {"sources": results.hashes})


def of_a_profile(results: Results, profile: str) -> dict:
    """The names that a template of a profile's results may use."""
    parts = {name: results.part(profile, name) for name in FILES.get(profile, OF_A_PROFILE)}
    rows = parts["metrics"]
    of_styles = _nested(rows, "style", "group", "metric")
    # `ablations` is what findings.json says of where its rows were made.
    return {name: part for name, part in parts.items() if name not in ("metrics", "findings")} | parts["findings"] | {
        "environment": results.read(f"{profile}/metrics.json")["environment"],
        "parameters": networks.count_parameters(networks.Generator()),
        "rows": rows,
        "styles": {  # the metrics of the full method, those of the groups beside it, as photo and cartoons, and its run
            style: of_styles[style]["style"] | of_styles[style] | {"run": run} for style, run in parts["train"].items()
        },
        "stopped": [title for title, row in parts["ablations"]["runs"].items() if "stopped" in row],
        "variants": _nested([row for row in rows if row["group"] not in tables.GROUPS_OF_STYLES], "variant", "metric"),
        "against": _nested(parts["findings"]["differences"], "reference", "variant", "metric"),
    }  # fmt: skip


def _nested(rows: list[dict], key: str, *keys: str) -> dict:
    """Rows by their values of keys: of the first, then of the next, down to a row."""
    if not keys:
        return {row[key]: row for row in rows}
    values = dict.fromkeys(row[key] for row in rows)
    return {value: _nested([row for row in rows if row[key] == value], *keys) for value in values}


def card(results: Results, profile: Profile, style: str) -> str:
    """The card of a published generator, rendered from the results of its profile."""
    parts = {name: results.part(profile.name, name) for name in ("data", "pretrain", "train", "metrics")}
    path, measured = results.weights(profile.name, style), results.read(f"{profile.name}/metrics.json")["environment"]
    about = {"style": style, "profile": profile, "environment": measured, "path": path, "sha256": _sha256(path)}
    return rendered("card.md.j2", parts | about)


def cards(root: Path) -> dict[str, str]:
    """Style -> the card of its generator, rendered from the published results below the root of a clone."""
    results, profile = Results(root / "results"), load_profile(PUBLISHED)
    return {style: card(results, profile, style) for style in results.part(PUBLISHED, "train")}


def write(root: Path = files.ROOT) -> list[Path]:
    """Write all generated pages and cards below the root of a clone; returns their paths.

    A card vouches for a file of weights, so one that does not name the file's SHA-256 is not written over.
    """
    new, results = {root / path: page(root, path) for path in PAGES}, Results(root / "results")
    for style in results.part(PUBLISHED, "train"):
        if not vouched(results.weights(PUBLISHED, style)):
            raise files.InputError(f"{style}.safetensors is not the file that {style}.md describes: fetch both again.")
    new |= {results.weights(PUBLISHED, style).with_suffix(".md"): text for style, text in cards(root).items()}
    for path, text in new.items():
        files.write_atomic(path, text)
    return list(new)


def vouched(weights: Path) -> bool:
    """Whether the card beside a file of weights names its SHA-256."""
    known = weights.with_suffix(".md")
    return weights.exists() and known.exists() and _sha256(weights) in known.read_text(encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
