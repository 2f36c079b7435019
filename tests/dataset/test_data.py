"""Prepared sets: what is read, what is kept, what is left out and why, splits and stores."""

import errno
import json
import re
import shutil
from dataclasses import replace

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms

from cartoonlib import files
from cartoonlib.dataset import catalogue, origins
from cartoonlib.dataset.catalogue import Source
from cartoonlib.dataset.prepare import join_sets, prepare
from cartoonlib.files import InputError
from cartoonlib.media.faces import CANONICAL
from cartoonlib.media.pictures import read_picture
from cartoonlib.report.book import Report


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RAW", tmp_path / "raw")
    monkeypatch.setattr(files, "PROCESSED", tmp_path / "processed")
    return tmp_path


def prepared(source, size=64, **options):
    return prepare(str(source), size, **{"test_fraction": 0.25, "progress": lambda message: None} | options)


def reasons(images):
    return {item["file"]: item["reason"] for item in images.rejected}


def noise(seed, size=96):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def test_hostile_photos_are_left_out_with_a_reason(folders):
    photos = folders / "my photos"
    photos.mkdir()
    astronaut = Image.fromarray(skimage.data.astronaut())
    astronaut.save(photos / "a.png")
    shutil.copy(photos / "a.png", photos / "b copy.png")
    astronaut.save(photos / "c again.jpg", quality=80)
    astronaut.convert("L").save(photos / "d grey.jpg")
    astronaut.resize((100, 100)).save(photos / "e small.png")
    (photos / "f truncated.jpg").write_bytes((photos / "c again.jpg").read_bytes()[:9000])
    (photos / "g text.jpg").write_text("not an image", encoding="utf-8")
    Image.new("RGB", (1, 1)).save(photos / "h dot.png")
    noise(0).save(photos / "i noise.png")
    (photos / "j empty.jpg").touch()
    (photos / "k notes.txt").write_text("no picture", encoding="utf-8")
    images = prepared(photos, size=128)
    assert [entry["file"] for entry in images.manifest] == ["a.png"]
    found = reasons(images)
    for name, start in {
        "b copy.png": "duplicate: the same file as a.png",
        "c again.jpg": "near-duplicate: almost the same as a.png",
        "d grey.jpg": "grey",
        "e small.png": "small",
        "f truncated.jpg": "unreadable: it cannot be read as a picture",
        "g text.jpg": "unreadable: it cannot be read as a picture (none of the formats that are known)",
        "h dot.png": "small: an image of 1 x 1 px",
        "i noise.png": "no face",
        "j empty.jpg": "unreadable",
        "k notes.txt": "passed over: .txt",
    }.items():
        assert found.pop(name).startswith(start), name
    assert not found
    assert images.images.shape == (1, 144, 144, 3) and images.images.dtype == np.uint8
    assert images.points.shape == (1, 5, 2) and images.points.dtype == np.float32


def test_a_face_that_the_border_cuts_off_is_left_out(folders):
    photos = folders / "photos"
    photos.mkdir()
    boxes = {"a": (174, 0, 400, 300), "b": (190, 0, 400, 300), "c": (100, 0, 262, 300), "d": (100, 0, 350, 150)}
    for name, box in boxes.items():  # a little on the left, and more there, on the right and below
        Image.fromarray(skimage.data.astronaut()).crop(box).save(photos / f"{name}.png")
    images = prepared(photos)
    assert [entry["file"] for entry in images.manifest] == ["a.png"]
    for name in ("b.png", "c.png", "d.png"):
        assert re.fullmatch(r"cut off: [34]\d% of the face's square lies outside the image", reasons(images)[name])


def test_photos_are_turned_as_exif_says_and_transparency_is_white(folders):
    photos = folders / "photos"
    photos.mkdir()
    astronaut = Image.fromarray(skimage.data.astronaut())
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn by 90 degrees clockwise
    astronaut.transpose(Image.Transpose.ROTATE_90).save(photos / "a turned.jpg", exif=exif, quality=95)
    images = prepared(photos, size=128)
    assert len(images.images) == 1
    left, right = images.points[0, :2]
    assert left[0] < right[0] and abs(left[1] - right[1]) < 0.05

    drawings = folders / "drawings"
    drawings.mkdir()
    drawing = np.array(noise(1).convert("RGBA"))
    drawing[:30, :, :3], drawing[:30, :, 3] = 0, 0
    Image.fromarray(drawing).save(drawings / "alpha.png")
    corner = prepared(drawings, kind="cartoons").images[0, :10, :10]
    assert (corner == 255).all()


def test_training_reads_what_cartoonize_reads_and_to_the_same_pixels(folders, monkeypatch):
    drawings = folders / "drawings"
    drawings.mkdir()
    for number, suffix in enumerate(("png", "jpg", "jfif", "jpe", "webp", "bmp", "gif", "tif", "avif", "heic")):
        noise(number).save(drawings / f"{number}.{suffix}", "JPEG" if suffix.startswith("j") else None)
    grey = np.asarray(noise(10).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(drawings / "10 of 16 bits.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(11).crop((0, 0, 96, 80)).save(drawings / "11 turned.jpg", exif=exif)
    noise(12).convert("CMYK").save(drawings / "12 for print.jpg")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise(13).save(drawings / "13 profile.png", icc_profile=profile)
    monkeypatch.setattr(ImageCms, "profileToProfile", lambda image, *rest, outputMode: image.point(lambda v: v // 2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    count, found = origins.raw_images(catalogue.find(str(drawings), "cartoons"), 64, 0, [])
    pixels = {item.name: item.decode(item.content) for item in found}
    assert len(pixels) == count == 14
    for name, picture in pixels.items():
        assert np.array_equal(picture, read_picture(drawings / name)[0]), name
    assert np.array_equal(pixels["10 of 16 bits.png"][..., 0], grey // 257)
    assert pixels["11 turned.jpg"].shape == (96, 80, 3)
    assert np.array_equal(pixels["13 profile.png"], np.asarray(noise(13)) // 2)
    assert len(prepared(drawings, kind="cartoons").images) == 14


def test_a_second_preparation_gives_the_same_bytes_and_is_not_done_twice(folders):
    drawings = folders / "drawings"
    drawings.mkdir()
    for seed in range(8):
        noise(seed).save(drawings / f"{seed}.png")
    first = prepared(drawings, kind="cartoons")
    (folder,) = files.PROCESSED.glob("[!.]*")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    stamp = (folder / "images.npy").stat().st_mtime_ns
    prepared(drawings, kind="cartoons")
    assert (folder / "images.npy").stat().st_mtime_ns == stamp
    shutil.rmtree(folder)
    assert prepared(drawings, kind="cartoons").hash == first.hash
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    noise(99).save(drawings / "new.png")
    assert len(prepared(drawings, kind="cartoons").images) == 9  # a changed folder is prepared anew
    assert len(prepared(drawings, kind="cartoons", limit=3).images) == 3
    assert json.loads(before["manifest.json"])["kind"] == "cartoons"
    assert np.isnan(first.points).all()


def test_the_split_depends_on_the_file_alone_and_is_never_empty(folders):
    drawings = folders / "drawings"
    drawings.mkdir()
    for seed in range(40):
        noise(seed).save(drawings / f"{seed:02d}.png")
    images = prepared(drawings, kind="cartoons")
    splits = {entry["sha256"]: entry["split"] for entry in images.manifest}
    assert 3 < sum(split == "test" for split in splits.values()) < 20
    assert len(images.part("train")) + len(images.part("test")) == 40
    for seed in range(0, 40, 2):
        (drawings / f"{seed:02d}.png").unlink()
    fewer = prepared(drawings, kind="cartoons")
    assert all(splits[entry["sha256"]] == entry["split"] for entry in fewer.manifest)
    assert set(prepared(drawings, kind="cartoons", test_fraction=1e-9).split) == {"train", "test"}
    assert set(prepared(drawings, kind="cartoons", test_fraction=1.0).split) == {"train", "test"}
    assert set(prepared(drawings, kind="cartoons", test_fraction=0.0).split) == {"train"}


def test_drawn_faces_differ_from_one_another_and_are_framed_alike(folders):
    for style in ("toon_head", "adventurer", "personas"):
        images = prepared(style, limit=40)
        assert len(images.images) == 40 and len(images.rejected) <= 2
        spread = images.images.std(axis=0).mean()
        assert spread > 25  # of 255: varied hair, skin and ground
        assert images.licence == "CC BY 4.0"


def test_scenes_give_seeded_crops_and_repeated_frames_are_dropped(folders):
    scenes = files.RAW / "hayao"
    scenes.mkdir(parents=True)
    for seed in range(3):
        noise(seed, 256).resize((400, 256)).save(scenes / f"{seed}.png")
    noise(0, 256).resize((400, 256)).save(scenes / "again.jpg", quality=90)
    images = prepared("hayao", size=128)
    assert images.images.shape == (3, 144, 144, 3)
    assert [item["reason"].split(":")[0] for item in images.rejected] == ["near-duplicate"]


def test_cartoons_cropped_by_faces_are_aligned_and_checked_like_photos(folders, monkeypatch):
    portraits = folders / "portraits"
    portraits.mkdir()
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        Image.open(file).convert("RGB").save(portraits / "a.png")
    astronaut = Image.fromarray(skimage.data.astronaut())
    astronaut.save(portraits / "b.png")
    noise(0).save(portraits / "c no face.png")
    astronaut.convert("L").save(portraits / "d grey.png")
    one = Source("comics", "cartoons", "comics", "mine", "Put any there.", str(portraits), crop="faces")
    monkeypatch.setattr(
        catalogue, "sources", lambda: {"comics": one, "centred": replace(one, name="centred", crop="centre")}
    )
    images = prepared("comics", size=128)
    assert images.kind == "cartoons" and images.images.shape == (2, 144, 144, 3)
    assert [entry["file"] for entry in images.manifest] == ["a.png", "b.png"]
    assert np.linalg.norm(images.points - CANONICAL, axis=-1).max() < 0.06
    assert [reason.split(":")[0] for reason in reasons(images).values()] == ["no face", "grey"]
    centred = prepared("centred", size=128)
    assert len(centred.images) == 4 and np.isnan(centred.points).all()


def test_bad_input_is_one_sentence(folders, monkeypatch):
    with pytest.raises(InputError, match="did you mean toon_head"):
        prepared("toonhead")
    with pytest.raises(InputError, match="there is no folder .*utkface"):
        prepared("utkface")
    (folders / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        prepared(folders / "empty")
    noise(0).save(folders / "empty" / "noise.png")
    with pytest.raises(InputError, match="no usable faces"):
        prepared(folders / "empty")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match="No space is left"):
        prepared(folders / "empty", kind="cartoons")
    assert [path for path in files.PROCESSED.iterdir() if path.suffix != ".lock"] == []  # nothing half-made stays


def test_embedded_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROCESSED", tmp_path)
    try:
        images = prepared("embedded_faces", size=64)
    except InputError as error:
        if "npm could not fetch" in str(error):
            pytest.skip(str(error))
        raise
    assert len(images.images) >= 35
    assert {"train", "test"} == set(images.split)
    assert np.isfinite(images.points).all()
    assert all(entry["licence"] for entry in images.manifest)
    found = " ".join(reasons(images).values())
    for reason in ("uncertain", "not frontal", "no face", "grey"):
        assert reason in found


def test_joined_sets_repeat_no_image(face_set):
    """Nearly the same photo in two sets could be trained on in one and held out in the other."""
    other = np.array([noise(seed, 36) for seed in range(3)])
    other[1] = np.clip(face_set.images[0].astype(int) + 2, 0, 255)  # a copy that was compressed, say
    manifest = [{"file": f"{i}.jpg", "source": "others", "split": "train"} for i in range(3)]
    others = replace(face_set, name="others", images=other, points=face_set.points[:3], manifest=manifest)
    both = join_sets([face_set, others])
    assert len(both.images) == len(both.points) == len(both.manifest) == len(face_set.images) + 2
    assert np.array_equal(both.images[-2:], other[[0, 2]])
    assert both.rejected == [{"file": "1.jpg", "reason": "near-duplicate: almost the same as 0.png of faces"}]
    assert join_sets([face_set]) is face_set


@pytest.mark.parametrize("damage", ["shorter", "a bit flipped"])
@pytest.mark.parametrize("name", ["images.npy", "points.npy", "manifest.json"])
def test_a_damaged_set_is_one_sentence(folders, name, damage):
    drawings = folders / "drawings"
    drawings.mkdir()
    for seed in range(8):
        noise(seed).save(drawings / f"{seed}.png")
    prepared(drawings, kind="cartoons")
    (path,) = files.PROCESSED.glob(f"[!.]*/{name}")
    content = bytearray(path.read_bytes())
    content[content.index(b"train") if name.endswith("json") else -40] ^= 1
    path.write_bytes(content if damage == "a bit flipped" else content[:-100])
    with pytest.raises(InputError, match="is damaged .*: delete it, and it is prepared again"):
        prepared(drawings, kind="cartoons")


def test_a_single_image_and_a_set_that_is_none_of_faces_are_told(folders):
    one = folders / "one"
    one.mkdir()
    noise(0).save(one / "noise.png")
    with pytest.raises(InputError, match="no usable faces among its images .noise.png: no face"):
        prepared(one)
    few = Report("smoke", {"styles": [str(one)]}, progress=lambda line: None)
    message = "1 images to train with and 0 held out, 2 of each are needed|0 images to train"
    with pytest.raises(InputError, match=message):
        few.sets.cartoons
