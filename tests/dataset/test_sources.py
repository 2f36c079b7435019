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


def test_what_a_training_folder_passes_over_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROCESSED", tmp_path / "processed")
    folder = tmp_path / "photos"
    for name in ("a.png", "sub/b.jfif", ".thumbnails/a.png", ".hidden.png", "raw.nef", "film.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((90, 90), 60).save(folder / name, "JPEG" if name.endswith("jfif") else "PNG")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    said = []
    images = prepare(str(folder), 64, kind="cartoons", test_fraction=0.5, progress=said.append)
    assert {entry["file"] for entry in images.manifest} == {"a.png", "sub/b.jfif"}
    assert {item["file"]: item["reason"].split(" (")[0] for item in images.rejected} == {
        ".hidden.png": "passed over: hidden", ".thumbnails": "passed over: hidden", "raw.nef": "passed over: .nef",
        "elsewhere": "passed over: links to folders", "film.mp4": "passed over: .mp4",
        "gone.png": "unreadable: it cannot be read as a picture",
    }  # fmt: skip
    assert "left out: 5 passed over, 1 unreadable" in said[-1]
    for name in ("a.png", "sub/b.jfif", "gone.png"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="holds no images .passed over: 2 hidden, 1 links to folders, 1 .mp4, 1 .nef"):
        prepare(str(folder), 64, kind="cartoons", test_fraction=0.5)


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


def admin_lte() -> dict:
    """The entry of an archive."""
    return next(package for package in catalogue.find("embedded_faces").packages if package["name"] == "admin-lte")


def test_a_package_of_before_its_list_grew_is_unpacked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGES", tmp_path)
    monkeypatch.setattr(folders, "check_hash", lambda path, sha256: None)
    made = archive(
        tmp_path / "admin-lte-4.10.0.tgz", {"package/LICENSE": b"1", "package/dist/assets/img/user1.jpg": b"2"}
    )
    (tmp_path / "admin-lte-4.10.0").mkdir()
    (tmp_path / "admin-lte-4.10.0" / "LICENSE").write_bytes(b"old")
    folder = folders.npm_package(admin_lte())
    assert (folder / "dist/assets/img/user1.jpg").read_bytes() == b"2" and (folder / "LICENSE").read_bytes() == b"1"
    made.unlink()
    assert folders.npm_package(admin_lte()) == folder  # whole: nothing is fetched
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["admin-lte-4.10.0"]


def test_an_archive_with_a_wrong_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGES", tmp_path)
    archive(tmp_path / "admin-lte-4.10.0.tgz", {"package/dist/assets/img/user1-128x128.jpg": b"1"})
    with pytest.raises(InputError, match="SHA-256"):
        folders.npm_package(admin_lte())
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["admin-lte-4.10.0.tgz"]


def test_a_vector_face_that_cannot_be_rendered_is_told():
    with pytest.raises(InputError, match="it cannot be rendered"):
        origins._render(b"<svg", 64)
