"""`make soak`: what takes too long for `make test`. Writes results/soak.json, which says what was tried and survived.

* kill -9 at random moments of each stage of a small run: what the next start makes has the same bits as without.
* kill -9 at random moments of `make reproduce PROFILE=smoke`: the same for its metrics.
* 100 films and 200 pictures as users have them, whole and cut: each ends in a right picture or in one sentence.
* 1,000 broken or hostile images among 100 good ones: a reason for each, and no good one lost.
* Two threads instead of one: metrics that stay within the intervals of one.
* The tests that are marked slow: the page of `make page` in Chromium, photos of all kinds.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import matplotlib.cbook
import numpy as np
import skimage.data
import torch
from made_media import end_of_film, end_of_picture, make_film, make_picture, random_film, random_picture
from PIL import Image

from cartoonlib import features, files
from cartoonlib.dataset.prepare import prepare
from cartoonlib.images import center_crop
from cartoonlib.report import metrics
from cartoonlib.report.book import Report
from cartoonlib.report.detector import FaceApiLandmarks
from cartoonlib.runs import ablations, parallel
from cartoonlib.runs.profiles import load_profile

SEED = 0
STAGES = ("data preparation", "pretraining", "structure start", "training", "ablations", "evaluation")
ROWS = ("without texture", "original")
HOSTILE, GOOD = 1000, 100
FILMS, PICTURES = 100, 200


def silent(_line: str) -> None:
    pass


# --- a small run, stage by stage, through what the notebooks call ---------------------------------------------------


def photos(folder: Path) -> Path:
    """A folder of twelve photos of two faces: mirrored, darker, turned, so that none is nearly another."""
    folder.mkdir(parents=True)
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        faces = [Image.fromarray(skimage.data.astronaut()).crop((100, 0, 356, 256)), Image.open(file).convert("RGB")]
    for i, face in enumerate(faces):
        for turn in (-8, 0, 8):
            for mirrored in (False, True):
                picture = face.rotate(turn, Image.Resampling.BICUBIC)
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture
                picture.save(folder / f"{i}{turn}{mirrored}.png")
    return folder


SMALL = {"size": 32, "cartoon_limit": 24, "log_every": 2, "checkpoint_every": 5, "precision": "fp32"}


def small_run(home: Path, settings: dict, begin=silent) -> None:
    """Prepare, pretrain, start, train, ablate and evaluate below `home`; `begin` is told each stage as it begins."""
    files.PROCESSED, files.RESULTS = home / "processed", home / "results"
    profile = load_profile("smoke", {"styles": ["open_peeps"]} | settings).replace(name="soak")
    opened = Report(profile, progress=silent)
    begin(STAGES[0])
    faces, cartoons = opened.sets.faces, opened.sets.cartoons["open_peeps"]
    begin(STAGES[1])
    parallel.pretrain(profile, opened.sets, silent)
    begin(STAGES[2])
    parallel.start(profile, opened.sets, "open_peeps", silent)
    begin(STAGES[3])
    runs = {"full method": parallel.train(profile, opened.sets, "open_peeps", progress=silent)}
    begin(STAGES[4])
    table = {title: row for group in ablations.ablation_rows(profile).values() for title, row in group.items()}
    for title in ROWS:
        runs[title] = parallel.train(table[title].replace(train_steps=10), opened.sets, "open_peeps", title, silent)
    begin(STAGES[5])
    held_out = [center_crop(images.part("test"), profile.size) for images in (faces, cartoons)]
    embedder, detector = features.EfficientNetLite0(), FaceApiLandmarks()
    evaluator = metrics.Evaluator(*held_out, embedder, embedder, detector)
    rows = []
    for title, run in runs.items():
        for name, e in evaluator.measure(metrics.generate(run.generator(), held_out[0])).items():
            rows.append({"variant": title, "n": e.n, "metric": name, "value": e.value, "low": e.low, "high": e.high})
    opened.numbers("metrics", rows)


def outcome(home: Path) -> dict:
    """Hashes of all that a small run left, without times; and what should not be there."""
    kept = {}
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        name, content = path.relative_to(home).as_posix(), path.read_bytes()
        if path.name.endswith(".lock"):
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
            content = json.dumps([_timeless(json.loads(line)) for line in lines], sort_keys=True).encode()
        kept[name] = hashlib.sha256(content).hexdigest()
    return kept


def _timeless(content):
    if isinstance(content, dict):
        return {k: _timeless(v) for k, v in content.items() if k not in ("seconds", "environment")}
    return content


def in_a_process(task, *arguments, threads: int = 1) -> tuple[int, int]:
    """(process, pipe) of a fork of this process, which has used no threads yet; what the task says is in the pipe."""
    source, sink = os.pipe()
    process = os.fork()
    if process:
        os.close(sink)
        return process, source
    status = 1
    try:
        torch.set_num_threads(threads)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        task(*arguments, lambda line: os.write(sink, f"{line}\n".encode()))
        status = 0
    except BaseException as error:
        os.write(sink, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def whole(home: Path, settings: dict, threads: int = 1) -> dict[str, float]:
    """Make the small run, or go on with it, to its end; the seconds of each stage."""
    process, source = in_a_process(small_run, home, settings, threads=threads)
    begun = []
    with open(source, encoding="utf-8") as lines:
        for line in lines:
            begun.append((line.strip(), time.monotonic()))
    _, status = os.waitpid(process, 0)
    if status:
        raise RuntimeError(f"it ended with {begun[-1][0]}")
    ends = [moment for _, moment in begun[1:]] + [time.monotonic()]
    return {stage: end - moment for (stage, moment), end in zip(begun, ends)}


def killed_in(stage: str, seconds: float, home: Path, settings: dict) -> None:
    """The small run, killed so many seconds after the stage has begun."""
    process, source = in_a_process(small_run, home, settings)
    with open(source, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() == stage:
                break
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _trial(settings: dict, before: dict[str, Path], durations: dict[str, float], expected: dict, trial: tuple) -> tuple:
    """(stage, what is wrong after a kill at a moment of it and a new start, if anything)."""
    i, stage, moment = trial
    home = before[stage].with_name(f"trial{i}")
    shutil.copytree(before[stage], home) if before[stage].exists() else home.mkdir()
    killed_in(stage, moment * durations[stage], home, settings)
    try:
        whole(home, settings)
        found = outcome(home)
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        problem = f"differs in {', '.join(wrong)}" if wrong else ""
    except RuntimeError as error:
        problem = str(error)
    shutil.rmtree(home)
    return stage, problem


def kills(work: Path, number: int) -> dict:
    """Kill the small run `number` times, evenly over its stages, each time begun with the stages before it done."""
    settings = SMALL | {"faces": [str(photos(work / "photos"))]}
    durations = whole(work / "undisturbed", settings)
    expected = outcome(work / "undisturbed")
    again = whole(work / "again", settings)
    same = outcome(work / "again") == expected
    print(f"a small run: {sum(again.values()):.1f} s; twice the same bits: {same}", flush=True)
    before = {}
    for stage in STAGES:  # the state in which each stage begins
        before[stage] = work / f"before {stage}"
        killed_in(stage, 0.0, before[stage], settings)
    rng = random.Random(SEED)
    plan = [(i, STAGES[i % len(STAGES)], rng.random()) for i in range(number)]
    results = []
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for stage, problem in pool.imap(partial(_trial, settings, before, durations, expected), plan):
            results.append((stage, problem))
            if problem or len(results) % 20 == 0:
                survived = sum(not problem for _, problem in results)
                print(f"killed in {stage}: {problem or 'survived'}; {survived} / {len(results)}", flush=True)
    by_stage = {stage: [not problem for at, problem in results if at == stage] for stage in STAGES}
    return {
        "seed": SEED,
        "twice_the_same_bits": same,
        "tried": {stage: len(ends) for stage, ends in by_stage.items()},
        "survived": {stage: sum(ends) for stage, ends in by_stage.items()},
        "problems": [f"{stage}: {problem}" for stage, problem in results if problem],
    }


# --- the command ----------------------------------------------------------------------------------------------------


def reproduce(home: Path, seconds: float | None = None) -> float:
    """`make reproduce PROFILE=smoke` below home, killed with its kernels after so many seconds; how long it took."""
    folders = {"CARTOONLIB_RESULTS": str(home / "results"), "CARTOONLIB_PROCESSED": str(home / "processed")}
    command = [sys.executable, "-m", "cartoonlib.report", "reproduce", "smoke"]
    started = time.monotonic()
    with subprocess.Popen(command, env=os.environ | folders, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return seconds
        finally:
            if process.poll() is None:
                children = ["pgrep", "-P", str(process.pid)]
                kernels = subprocess.run(children, capture_output=True, encoding="utf-8").stdout.split()
                for one in (process.pid, *map(int, kernels)):
                    os.kill(one, signal.SIGKILL)
    if process.returncode:
        raise RuntimeError(said.strip().splitlines()[-1])
    return time.monotonic() - started


def reproductions(work: Path, number: int) -> dict:
    """Kill the command at random moments; its next start must end with the same metrics."""

    def numbers(home: Path) -> list:
        rows = json.loads((home / "results/smoke/metrics.json").read_text(encoding="utf-8"))["metrics"]
        return [row for row in rows if row["metric"] != "milliseconds"]

    duration = reproduce(work / "undisturbed") if number else 0.0
    rng, problems = random.Random(SEED), []
    for i in range(number):
        expected = numbers(work / "undisturbed")
        home, moment = work / f"trial{i}", rng.random() * duration
        reproduce(home, moment)
        try:
            reproduce(home)
            if numbers(home) != expected:
                problems.append(f"killed after {moment:.0f} s: other metrics")
        except RuntimeError as error:
            problems.append(f"killed after {moment:.0f} s: {error}")
        shutil.rmtree(home)
        survived = i + 1 - len(problems)
        print(f"make reproduce killed after {moment:.0f} of {duration:.0f} s: {survived} / {i + 1}", flush=True)
    return {"seed": SEED, "tried": number, "survived": number - len(problems), "problems": problems}


# --- bad data -------------------------------------------------------------------------------------------------------


def drawing(rng: np.random.Generator, side: int = 96) -> Image.Image:
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def hostile(rng: np.random.Generator, number: int) -> tuple[str, bytes]:
    """(ending, content) of a file that is no picture to learn from; kinds take turns."""
    formats = ("jpeg", "png", "webp", "gif", "bmp", "tiff")
    kind, ending = number % 10, formats[number // 10 % len(formats)]
    buffer = io.BytesIO()
    drawing(rng).save(buffer, ending)
    content = bytearray(buffer.getvalue())
    if kind == 0:
        content = content[: int(rng.integers(1, len(content) // 2))]  # a transfer that broke off
    elif kind == 1:
        content = b""
    elif kind == 2:
        content = b"<html>404 not found %d</html>" % number
    elif kind == 3:
        content = rng.bytes(2000)
    elif kind == 4:
        content[:8] = rng.bytes(8)  # the signature is gone
    elif kind == 5:
        content = content[:64] + bytes(len(content) - 64)  # a hole, as disks leave them
    elif kind == 6:
        buffer = io.BytesIO()
        Image.new("RGB", (int(rng.integers(1, 20)), 1 + number % 7)).save(buffer, "png")
        content = buffer.getvalue()
    elif kind == 7:
        buffer = io.BytesIO()
        Image.new("L", (20000, 10 + number % 5)).save(buffer, "png")
        content = buffer.getvalue()
    elif kind == 8:  # a decompression bomb: 40,000 x 40,000 by its header
        buffer = io.BytesIO()
        Image.new("1", (8, 8)).save(buffer, "png")
        content = bytearray(buffer.getvalue())
        content[16:24] = (40000).to_bytes(4, "big") * 2
        content += number.to_bytes(4, "big")
    else:
        content = b"\x80\x04\x95" + rng.bytes(40) + b"cos\nsystem\n"  # a pickle
    return ending, bytes(content)


def bad_data(work: Path) -> dict:
    """Prepare a set of good drawings among hostile files."""
    rng, folder = np.random.default_rng(SEED), work / "drawings"
    folder.mkdir(parents=True)
    good = {f"{i:04d}good.png" for i in rng.permutation(HOSTILE + GOOD)[:GOOD]}
    for name in sorted(good):
        drawing(rng).save(folder / name)
    for i in range(HOSTILE):
        ending, content = hostile(rng, i)
        (folder / f"{rng.integers(HOSTILE + GOOD):04d}bad{i}.{ending}").write_bytes(content)
    (folder / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "folder.png").mkdir()
    files.PROCESSED = work / "processed"
    started = time.monotonic()
    images = prepare(str(folder), 64, test_fraction=0.2, kind="cartoons", progress=silent)
    kept = {entry["file"] for entry in images.manifest}
    reasons = {item["file"]: item["reason"] for item in images.rejected}
    kinds = sorted({reason.split(":")[0] for reason in reasons.values()})
    return {
        "seed": SEED,
        "hostile": HOSTILE,
        "good": GOOD,
        "good_lost": sorted(good - kept),
        "hostile_kept": sorted(kept - good),
        "without_a_reason": HOSTILE - len(reasons.keys() - good) - len(kept - good),
        "reasons": {kind: sum(reason.startswith(kind) for reason in reasons.values()) for kind in kinds},
        "seconds": round(time.monotonic() - started, 1),
    }


# --- films and pictures ---------------------------------------------------------------------------------------------


def media(work: Path) -> dict:
    """Films and pictures of made_media.py: how many end in a right picture, in one sentence, or wrongly."""
    ends = {}
    parts = (("films", FILMS, random_film, make_film, end_of_film),
             ("pictures", PICTURES, random_picture, make_picture, end_of_picture))  # fmt: skip
    for name, number, draw, make, end in parts:
        folder = work / name
        folder.mkdir()
        ends[name] = {"tried": number, "right": 0, "sentence": 0, "wrong": []}
        for seed in range(number):
            made = draw(random.Random(SEED + seed))
            path = folder / f"{seed}.{made.suffix}"
            make(path, made)
            try:
                found, why = end(path, made)
            except Exception as error:
                found, why = "wrong", repr(error)
            if found == "wrong":
                ends[name]["wrong"].append(f"{seed}: {why}")
            else:
                ends[name][found] += 1
        print(f"{name}: {ends[name]}", flush=True)
    return {"seed": SEED, **ends}


# --- threads --------------------------------------------------------------------------------------------------------


def threads(work: Path) -> dict:
    """A run of smoke's size on one thread and on two: how many metrics are equal, and which leave the intervals."""
    rows = []
    for number in (1, 2):
        whole(work / str(number), {}, threads=number)
        path = work / str(number) / "results" / "soak" / "metrics.json"
        rows.append(json.loads(path.read_text(encoding="utf-8"))["metrics"])
    outside = [f"{a['variant']}, {a['metric']}" for a, b in zip(*rows) if not a["low"] <= b["value"] <= a["high"]]
    equal = sum(a["value"] == b["value"] for a, b in zip(*rows))
    return {"n": rows[0][0]["n"], "metrics": len(rows[0]), "equal": equal, "outside": outside}


def slow(_work: Path) -> dict:
    """The tests that `make test` leaves out."""
    command = [sys.executable, "-m", "pytest", "-m", "slow", str(Path(__file__).parent)]
    done = subprocess.run(command, check=False)
    return {"passed": done.returncode == 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"kills": kills, "threads": threads, "bad_data": bad_data, "media": media, "slow": slow,
             "reproductions": reproductions}  # fmt: skip
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all when none is named, the others are kept")
    parser.add_argument("--kills", type=int, default=200, help="of the small run, over all its stages")
    parser.add_argument("--reproductions", type=int, default=5, help="of make reproduce PROFILE=smoke that are killed")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(parts):
        parser.error(f"unknown: {', '.join(unknown)}")
    target = files.RESULTS / "soak.json"
    results = json.loads(target.read_text(encoding="utf-8"))["soak"] if target.exists() else {}
    for name in given.parts or parts:
        with tempfile.TemporaryDirectory() as work:
            started = time.monotonic()
            number = [getattr(given, name)] if name in ("kills", "reproductions") else []
            results[name] = parts[name](Path(work), *number)
            results[name]["minutes"] = round((time.monotonic() - started) / 60, 1)
        results[name]["environment"] = Report("smoke", progress=silent).environment()
        print(f"{name}: {json.dumps(results[name])}", flush=True)
        files.write_atomic(target, json.dumps({"soak": results}, indent=1) + "\n")
    sys.exit(not told(results))


def told(results: dict) -> bool:
    """Print what survived, of all parts that were ever run here; whether all is as it should be."""
    tried = survived = 0
    for name in ("kills", "reproductions"):
        if name in results:
            of_stages = name == "kills"  # a number a stage
            tried += sum(results[name]["tried"].values()) if of_stages else results[name]["tried"]
            survived += sum(results[name]["survived"].values()) if of_stages else results[name]["survived"]
    print(f"survived / tried: {survived} / {tried}")
    wrong = [line for name in ("films", "pictures") for line in results.get("media", {}).get(name, {}).get("wrong", [])]
    wrong += [] if results.get("slow", {"passed": True})["passed"] else ["a slow test failed"]
    same = results.get("kills", {}).get("twice_the_same_bits", True)
    bad = results.get("bad_data", {"good_lost": [], "without_a_reason": 0})
    # The original code's variant magnifies rounding more than nine photos' intervals allow; the full method must not.
    outside = any("full method" in row for row in results.get("threads", {"outside": []})["outside"])
    return survived == tried and same and not (bad["good_lost"] or bad["without_a_reason"] or outside or wrong)


if __name__ == "__main__":
    main()
