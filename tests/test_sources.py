"""Where images come from: the list of sets, archives and downloads, against local files and a local server."""

import hashlib
import io
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from cartoonlib import files
from cartoonlib.dataset import catalogue, downloads
from cartoonlib.dataset.prepare import prepare
from cartoonlib.files import InputError

CONTENT = np.random.default_rng(0).bytes(300_000)
CHUNK = 2**16  # what the downloader writes at a time
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_every_set_says_what_whence_and_under_which_licence():
    named = catalogue.sources()
    assert {"embedded_faces", "toon_head", "adventurer", "personas"} <= set(named)
    assert {"ffhq_thumbnails128", "utkface", "hayao", "paprika", "shinkai", "summerwar"} <= set(named)
    for source in named.values():
        assert source.kind in ("faces", "cartoons") and source.title and source.licence and source.get.endswith(".")
        assert source.crop in ("centre", "upper", "random", "faces") and source.split in ("hash", "train", "test")
        assert bool(source.folder) + bool(source.packages) + bool(source.drawn) == 1
        for package in source.packages:
            assert len(package["sha256"]) == 64 and package["licence"] and package["members"] and package["photos"]


def test_find_takes_names_and_paths(tmp_path):
    assert catalogue.find("toon_head").kind == "cartoons"
    folder = tmp_path / "My Faces!"
    folder.mkdir()
    assert (catalogue.find(str(folder)).name, catalogue.find(str(folder)).kind) == ("my_faces", "faces")
    assert catalogue.find(str(folder), "cartoons").kind == "cartoons"
    with pytest.raises(InputError, match="not of 'landscapes'"):
        catalogue.find(str(folder), "landscapes")
    with pytest.raises(InputError, match="neither a set"):
        catalogue.find(str(tmp_path / "absent"))


def test_names_of_any_bytes(tmp_path, monkeypatch):
    """A name out of an old archive need not be UTF-8; with a limit, files come in the order of their names' hashes."""
    monkeypatch.setattr(files, "PROCESSED", tmp_path / "processed")
    folder = tmp_path / "old"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"b.png"):
        try:
            with open(os.fsencode(folder) + b"/" + name, "wb") as file:
                Image.effect_noise((90, 90), 60).save(file, "PNG")
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
    images = prepare(str(folder), 64, kind="cartoons", limit=10, test_fraction=0.5, progress=lambda message: None)
    assert {os.fsencode(entry["file"]) for entry in images.manifest} == {b"caf\xe9.png", b"b.png"}


# --- archives ------------------------------------------------------------------------------------------------------


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_unpack_takes_the_listed_members_only(tmp_path):
    made = archive(tmp_path / "p.tgz", {"package/a/1.jpg": b"1", "package/a/2.js": b"2", "package/LICENSE": b"3"})
    downloads.unpack(made, tmp_path / "out", ["LICENSE", "a/*.jpg"])
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a/1.jpg"] and (tmp_path / "out" / "LICENSE").read_bytes() == b"3"
    with pytest.raises(InputError, match="does not hold b"):
        downloads.unpack(made, tmp_path / "other", ["b"])


@pytest.mark.parametrize("name", ["package/../../evil.jpg", "package//tmp/evil.jpg", "package/link.jpg"])
def test_unpack_refuses_members_that_leave_the_folder(tmp_path, name):
    made = archive(tmp_path / "p.tgz", {name: None if "link" in name else b"evil"})
    with pytest.raises(InputError, match="unsafe member"):
        downloads.unpack(made, tmp_path / "deep" / "out", ["*.jpg"])
    assert [path.name for path in tmp_path.rglob("*")] == ["p.tgz"]


def test_an_archive_with_a_wrong_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGES", tmp_path)
    archive(tmp_path / "admin-lte-4.10.0.tgz", {"package/dist/assets/img/user1-128x128.jpg": b"1"})
    with pytest.raises(InputError, match="SHA-256"):
        downloads.npm_package("admin-lte")
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["admin-lte-4.10.0.tgz"]


# --- downloads -----------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT; breaks off after `server.cuts` bytes, once per entry; obeys ranges unless told otherwise."""

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        if self.path == "/missing":
            return self.send_error(404)
        start = 0
        if self.headers.get("Range") and self.server.obeys_ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[start : start + cut])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.ranges, made.cuts, made.obeys_ranges = [], [], True
    made.url = f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_download_once(server, tmp_path):
    target = tmp_path / "new" / "file.bin"
    for _ in range(2):
        assert downloads.download(f"{server.url}/file", target, SHA256).read_bytes() == CONTENT
    assert server.ranges == [None]
    assert downloads.download(f"{server.url}/file", tmp_path / "short", SHA256[:10]).read_bytes() == CONTENT


def test_download_resumes_within_a_call_and_in_the_next(server, tmp_path):
    target = tmp_path / "file.bin"
    server.cuts = [2 * CHUNK, CHUNK]
    downloads.download(f"{server.url}/file", target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"]

    target.unlink()
    server.ranges.clear()
    server.cuts = [0] + [CHUNK] * (downloads.ATTEMPTS - 2) + [0]
    with pytest.raises(InputError, match="broke off"):
        downloads.download(f"{server.url}/file", target, SHA256)
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin.part"]
    downloads.download(f"{server.url}/file", target, SHA256)
    assert target.read_bytes() == CONTENT and server.ranges[-1] == f"bytes={3 * CHUNK}-"
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_download_takes_a_complete_part_and_replaces_a_wrong_one(server, tmp_path):
    target, part = tmp_path / "file.bin", tmp_path / "file.bin.part"
    part.write_bytes(CONTENT)
    downloads.download(f"{server.url}/file", target, SHA256)
    target.unlink()
    part.write_bytes(b"something else")
    downloads.download(f"{server.url}/file", target, SHA256)
    target.unlink()
    server.obeys_ranges = False
    part.write_bytes(CONTENT[:1000])
    downloads.download(f"{server.url}/file", target, SHA256)
    assert target.read_bytes() == CONTENT and not part.exists()


def test_a_wrong_hash_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(InputError, match="SHA-256"):
        downloads.download(f"{server.url}/file", tmp_path / "file.bin", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_one_sentence(server, tmp_path):
    with pytest.raises(InputError, match="404"):
        downloads.download(f"{server.url}/missing", tmp_path / "file.bin", SHA256)
    assert not list(tmp_path.iterdir())
