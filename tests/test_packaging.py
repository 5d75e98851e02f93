"""The wheel holds what a program needs that was started in an empty folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "configs", "toco_jax")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the wheel was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_package(site):
    package = REPOSITORY / "toco_jax"
    expected = {
        path.relative_to(package)
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    expected |= {pathlib.Path("configs", path.name) for path in REPOSITORY.glob("configs/*.py")}
    assert pathlib.Path("py.typed") in expected
    installed = site / "toco_jax"
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert found == expected
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert "toco = toco_jax.__main__:main" in entry_points.read_text()


def test_configurations_are_found_from_an_empty_folder(site, tmp_path):
    command = [sys.executable, "-m", "toco_jax", "config", "configs/shapes.py", "seed=7"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert {"seed = 7", "init = 'shapes'"} < set(ran.stdout.splitlines())
