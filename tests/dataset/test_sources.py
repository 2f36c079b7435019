"""Where images come from: the list of sets, folders of your own and archives."""

import io
import os
import tarfile

import pytest
from PIL import Image

from cartoonlib import files
from cartoonlib.dataset import catalogue, folders, origins
from cartoonlib.dataset.prepare import prepare
from cartoonlib.files import InputError


def test_every_set_says_what_whence_and_under_which_licence():
    named = catalogue.sources()
    assert {"embedded_faces", "toon_head", "adventurer", "personas"} <= set(named)
    assert {"ffhq_thumbnails128", "utkface", "hayao", "paprika", "shinkai", "summerwar"} <= set(named)
    for source in named.values():
        assert source.kind in ("faces", "cartoons") and source.title and source.licence and source.get.endswith(".")
        assert source.crop in ("centre", "random", "faces") and source.split in ("hash", "train", "test")
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
    folders.unpack(made, tmp_path / "out", ["LICENSE", "a/*.jpg"])
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a/1.jpg"] and (tmp_path / "out" / "LICENSE").read_bytes() == b"3"
    with pytest.raises(InputError, match="does not hold b"):
        folders.unpack(made, tmp_path / "other", ["b"])


@pytest.mark.parametrize("name", ["package/../../evil.jpg", "package//tmp/evil.jpg", "package/link.jpg"])
def test_unpack_refuses_members_that_leave_the_folder(tmp_path, name):
    made = archive(tmp_path / "p.tgz", {name: None if "link" in name else b"evil"})
    with pytest.raises(InputError, match="unsafe member"):
        folders.unpack(made, tmp_path / "deep" / "out", ["*.jpg"])
    assert [path.name for path in tmp_path.rglob("*")] == ["p.tgz"]


def test_a_package_of_before_its_list_grew_is_unpacked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGES", tmp_path)
    monkeypatch.setattr(folders, "check_hash", lambda path, sha256: None)
    made = archive(
        tmp_path / "admin-lte-4.10.0.tgz", {"package/LICENSE": b"1", "package/dist/assets/img/user1.jpg": b"2"}
    )
    (tmp_path / "admin-lte-4.10.0").mkdir()
    (tmp_path / "admin-lte-4.10.0" / "LICENSE").write_bytes(b"old")
    folder = folders.npm_package("admin-lte")
    assert (folder / "dist/assets/img/user1.jpg").read_bytes() == b"2" and (folder / "LICENSE").read_bytes() == b"1"
    made.unlink()
    assert folders.npm_package("admin-lte") == folder  # whole: nothing is fetched
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["admin-lte-4.10.0"]


def test_an_archive_with_a_wrong_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGES", tmp_path)
    archive(tmp_path / "admin-lte-4.10.0.tgz", {"package/dist/assets/img/user1-128x128.jpg": b"1"})
    with pytest.raises(InputError, match="SHA-256"):
        folders.npm_package("admin-lte")
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["admin-lte-4.10.0.tgz"]


def test_a_vector_face_that_cannot_be_rendered_is_told():
    with pytest.raises(InputError, match="it cannot be rendered"):
        origins._render(b"<svg", 64)
