"""pyproject.toml, requirements.lock and environment.yml agree: the lock is the one place that has versions.

Run as a script, it prints environment.yml. That file brings conda users Python, make and pip; `make` then installs the
lock, hashes and all, as it does for everybody. The lock cannot stand in the file's pip section: it must be installed
without dependency resolution (facenet-pytorch's metadata asks for an old torch), and neither conda nor pip's
requirement files take --no-deps.
"""

import os
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
GROUPS = dict(PROJECT["optional-dependencies"])  # photos, running, development: each may contain another one
ALONE = GROUPS.pop("tflite")  # in no lock, for it asks for older versions than the others take
DEPENDENCIES = [line for group in (PROJECT["dependencies"], *GROUPS.values()) for line in group if "[" not in line]

ENVIRONMENT = """\
# For conda users, written by `make lock`. All packages come from requirements.lock, the same versions as without conda:
#   conda env create -f environment.yml && conda activate cartoonization && make reproduce
name: cartoonization
channels:
  - conda-forge
dependencies:
  - python={python}
  - make
  - pip
"""


def environment() -> str:
    """The content of environment.yml: the oldest Python that pyproject.toml allows."""
    return ENVIRONMENT.format(python=PROJECT["requires-python"].removeprefix(">="))


def read_lock() -> list[tuple[str, str, str, list[str]]]:
    """(name, version, marker, hashes) of every entry of requirements.lock."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "requirements.lock").read_text(encoding="utf-8"), flags=re.M)
    entries = []
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        pinned, _, marker = requirement.partition(";")
        name, version = pinned.split("==")
        entries.append((name.strip(), version.strip(), marker.strip(), hashes))
    return entries


SYSTEMS = {"linux": ("Linux", "x86_64"), "darwin": ("Darwin", "arm64")}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def pinned(python: str, system: str) -> dict[str, list[str]]:
    """Name -> versions that pip would install from the lock there."""
    from packaging.markers import Marker
    from packaging.utils import canonicalize_name

    platform, machine = SYSTEMS[system]
    place = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system, "os_name": "posix",
             "platform_system": platform, "platform_machine": machine}  # fmt: skip
    found = {}
    for name, version, marker, _ in read_lock():
        if not marker or Marker(marker).evaluate(place):
            found.setdefault(canonicalize_name(name), []).append(version)
    return found


def test_the_lock_has_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text and "-url" not in text and " @ " not in text and "-e " not in text
    entries = read_lock()
    assert len(entries) > 100
    for name, version, _, hashes in entries:
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), name
        assert re.fullmatch(r"[\w.+!-]+", version), name


def test_every_dependency_is_locked_once_to_a_version_that_it_allows():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    overrides = (ROOT / "overrides.txt").read_text(encoding="utf-8").splitlines()
    for python in PYTHONS:
        for system in SYSTEMS:
            lock = pinned(python, system)
            assert all(len(versions) == 1 for versions in lock.values()), (python, system)
            for line in [*DEPENDENCIES, *PYPROJECT["build-system"]["requires"], *overrides]:
                requirement = Requirement(line)
                (version,) = lock[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), f"{line}: {version} on {system}, Python {python}"


def test_each_group_contains_the_one_before_it():
    """`make` installs all of the lock; pip can install one group, and then needs all that its rooms import."""
    assert list(GROUPS) == ["photos", "running", "development"]
    assert "cartoonlib[photos]" in GROUPS["running"] and "cartoonlib[running]" in GROUPS["development"]
    assert not set(ALONE) & set(DEPENDENCIES)
    assert len(set(DEPENDENCIES)) == len(DEPENDENCIES), "a dependency stands in two groups"


def test_overrides_are_those_of_pyproject():
    assert set((ROOT / "overrides.txt").read_text(encoding="utf-8").split()) <= set(DEPENDENCIES)


def test_nothing_that_the_installed_packages_need_is_missing_from_the_lock():
    """The lock is installed without dependency resolution, so pip would not say."""
    import sys
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = pinned(".".join(map(str, sys.version_info[:2])), sys.platform)
    missing = set()
    for name in lock:
        try:
            needs = [Requirement(line) for line in distribution(name).requires or []]
        except PackageNotFoundError:
            continue  # for another machine
        for requirement in needs:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                if canonicalize_name(requirement.name) not in lock:
                    missing.add(f"{requirement.name} of {name}")
    assert not missing


def test_the_environment_file_is_what_this_script_prints():
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == environment(), "run `make lock`"


def test_conda_users_get_the_versions_of_the_lock_too():
    """The file has a Python that pyproject.toml and the lock allow, what make needs, and no version of its own."""
    import yaml
    from packaging.specifiers import SpecifierSet

    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert set(content) == {"name", "channels", "dependencies"} and content["channels"] == ["conda-forge"]
    python, *others = content["dependencies"]
    assert others == ["make", "pip"]
    version = python.removeprefix("python=")
    assert version in PYTHONS and SpecifierSet(PROJECT["requires-python"]).contains(version)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "pip install" in makefile and "--require-hashes --no-deps -r requirements.lock" in makefile


# --- make, on machines that differ ----------------------------------------------------------------------------------


def make(folder: Path, *arguments: str, **environment: str) -> str:
    """What make prints in a folder that has the Makefile."""
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "-o", ".venv/ready", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_runs_in_a_path_with_a_space_and_as_root(tmp_path):
    folder = tmp_path / "my project"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    for name in ("voila", "jupyter", "python"):
        program = folder / ".venv" / "bin" / name
        program.write_text('#!/bin/sh\necho "$PWD: $@"\n', encoding="utf-8")
        program.chmod(0o755)
    assert make(folder, "demo") == f"{folder}/notebooks: 08_your_photo.ipynb\n"
    assert make(folder, "demo", CDPATH=f":{tmp_path}") == f"{folder}/notebooks: 08_your_photo.ipynb\n"
    assert "--allow-root" in make(folder, "lab")  # Jupyter refuses to start in most containers without it
    assert make(folder, "verify") == f"{folder}: -m cartoonlib.report verify quick\n"


def test_settings_for_other_projects_do_not_reach_pip_and_jupyter(tmp_path):
    wrong = {"PIP_USER": "1", "PIP_TARGET": "x", "PIP_PREFIX": "x", "JUPYTER_PATH": "x", "JUPYTER_PREFER_ENV_PATH": "0"}
    lines = make(tmp_path, "--eval", "show: ; @env", "show", **wrong).splitlines()
    assert {"PIP_USER=0", "JUPYTER_PREFER_ENV_PATH=1"} <= set(lines)
    assert not any(line.startswith(("PIP_TARGET=", "PIP_PREFIX=", "JUPYTER_PATH=")) for line in lines)


if __name__ == "__main__":
    print(environment(), end="")
