"""What is installed: the package, its data and its types; not what trains, measures or tests it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made by the project's own build backend."""
    (made,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    return Path(made)


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "latent_assets").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == files
    assert {"latent_assets/py.typed", "latent_assets/profiles/demo.toml"} <= names
    assert any(name.endswith(".safetensors") for name in names)
    assert not [name for name in names if "/training/" in name or name.endswith(("queries.toml", "evaluate.py"))]


def test_the_program_and_the_licence_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        about = {name.partition(".dist-info/")[2]: archive.read(name) for name in archive.namelist()}
    assert b"latent-assets = latent_assets.cli:main" in about["entry_points.txt"]
    assert b"Apache License" in about["licenses/LICENSE"]
