"""Nothing in a data set, checkpoint, profile or notebook parameter can run code or reach out of its folder."""

import ast
import os
import pickle
import re

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError

from cartoonlib import files, networks
from cartoonlib.dataset import folders
from cartoonlib.dataset.prepare import ImageSet
from cartoonlib.files import InputError
from cartoonlib.runs.profiles import load_profile

SOURCES = sorted((files.ROOT / "cartoonlib").rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
CALLS |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def name_of(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(files.ROOT).as_posix())
def test_the_library_has_no_way_to_run_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
            assert not {name.split(".")[0] for name in names} & MODULES, ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        name, given = name_of(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert name not in CALLS, ast.unparse(node)
        assert name != "torch.load" or given.get("weights_only") == "True", ast.unparse(node)
        assert given.get("allow_pickle", "False") == "False" and given.get("shell", "False") == "False"


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_generator_file_that_is_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "generator.safetensors"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "evil")))
    with pytest.raises(SafetensorError):
        networks.load_generator(path)
    torch.save({"state": Evil(tmp_path / "evil")}, path)
    with pytest.raises(SafetensorError):
        networks.load_generator(path)
    assert not (tmp_path / "evil").exists()


def test_a_prepared_set_that_holds_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    np.save(tmp_path / "points.npy", np.zeros((1, 5, 2)))
    np.save(tmp_path / "images.npy", np.array([Evil(tmp_path / "evil")], object), allow_pickle=True)
    with pytest.raises(InputError, match="damaged"):
        ImageSet.load(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_profile_cannot_make_objects(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROFILES", tmp_path)
    evil = f"faces: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n"
    (tmp_path / "evil.yaml").write_text(evil, encoding="utf-8")
    with pytest.raises(InputError, match="is not valid YAML"):
        load_profile("evil")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["../quick", "/etc/passwd", "quick\0", "..", ""])
def test_the_name_of_a_profile_is_no_path(name):
    with pytest.raises(InputError, match="There is no profile"):
        load_profile(name)


def test_names_in_a_manifest_are_never_opened():
    """They are told, not followed: the pictures are in the arrays, and nothing joins a folder with such a name."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/ (entry|item|row)\[\"file\"\]", text), path.name


def test_what_is_fetched_is_named_with_its_hash():
    entries = yaml.safe_load((files.ROOT / "data" / "sources.yaml").read_text(encoding="utf-8"))
    runtime = files.ROOT / "cartoonlib" / "web" / "runtime.yaml"
    entries["page"] = {"packages": [yaml.safe_load(runtime.read_text(encoding="utf-8"))]}
    for entry in entries.values():
        for package in entry.get("packages", []):
            assert re.fullmatch("[0-9a-f]{64}", package["sha256"])
    for line in (files.ROOT / "requirements.lock").read_text(encoding="utf-8").split("\n\n"):
        assert all("--hash=sha256:" in block for block in re.split(r"\n(?=\S)", line) if "==" in block.split("\n")[0])
    assert "load_weights" in (files.ROOT / "cartoonlib" / "features.py").read_text(encoding="utf-8")
    assert "SHA-256" in folders.npm_package.__doc__


def test_jupyterlab_listens_on_loopback_with_its_token():
    lines = (files.ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if "/jupyter lab " in line]
    assert "--ip=127.0.0.1" in line and "token" not in line
    assert "allow" not in line.replace("--allow-root", "")  # who is root, as in a container, may start it too
