"""What is installed: a wheel that needs no checkout, and an sdist from which it can be built."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from kljax import __version__

ROOT = Path(__file__).parents[1]


def build(root, kind, out):
    """What hatchling makes of a folder, as pip has it made, without a network."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out], cwd=root, check=True, capture_output=True
    )
    (made,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """installed(folder, *arguments): the command as it is in the wheel, given in that folder; what it says."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)

    def call(folder, *arguments):
        command = [sys.executable, "-P", "-m", "kljax", *arguments]
        ended = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True)
        return ended.returncode, ended.stdout, ended.stderr

    return call


def files_below(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"}


def test_it_has_the_package_its_configs_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        for config in files_below(ROOT / "configs"):
            assert archive.read(f"kljax/configs/{config}") == (ROOT / "configs" / config).read_bytes()
        (entry_points,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt"))
    package = {f"kljax/{name}" for name in files_below(ROOT / "kljax")}
    assert names == package | {f"kljax/configs/{name}" for name in files_below(ROOT / "configs")}
    assert "kljax/py.typed" in names
    assert "kljax = kljax.commands:main" in entry_points


def test_the_version_is_in_one_place(wheel):
    assert wheel.name.startswith(f"kljax-{__version__}-")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (__version__, "Apache-2.0")
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_the_same_wheel_is_made_from_the_sdist(wheel, tmp_path):
    with tarfile.open(build(ROOT, "sdist", tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (root,) = (tmp_path / "unpacked").iterdir()
    assert {"tests", "experiments", "docs", "README.md", "Makefile"} <= {file.name for file in root.iterdir()}
    again = build(root, "wheel", tmp_path / "again")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_it_finds_its_configs_and_those_of_the_folder_where_it_is_called(installed, tmp_path):
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    mine = "# @package _global_\ndefaults: [enumerable, _self_]\nname: mine\n"
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text(mine)
    code, said, complained = installed(tmp_path, "train", "experiment=mine", "--cfg", "job")
    assert (code, complained) == (0, "")
    assert "name: mine\n" in said
    assert "kind: letters\n" in said  # of kljax's own enumerable.yaml


def test_it_answers_in_an_empty_folder(installed, tmp_path):
    (tmp_path / "runs").mkdir()
    assert installed(tmp_path, "runs") == (0, "No runs in runs.\n", "")
    assert installed(tmp_path, "train", "kl.bta=1")[::2] == (2, "kljax: kl.bta: no such config key. Did you mean 'kl.beta'?\n")
    assert [file.name for file in tmp_path.rglob("*")] == ["runs"]
