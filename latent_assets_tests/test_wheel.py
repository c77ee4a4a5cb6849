"""What is installed: the package, its data and its types; not what trains, measures or tests it.

The source distribution: what is under version control, and nothing that a used checkout holds besides.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
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
        if path.is_file() and not {"__pycache__", "node_modules"}.intersection(path.parts)
    }
    web = "latent_assets/web/"
    assert names == {file for file in files if not file.startswith(web) or file.startswith(f"{web}dist/")} | {
        f"{web}__init__.py",
        f"{web}building.py",
    }
    assert f"{web}dist/index.html" in names, "the viewer is built into the wheel"
    assert any(name.startswith(f"{web}dist/assets/") and name.endswith(".js") for name in names)
    assert {"latent_assets/py.typed", "latent_assets/profiles/demo.toml"} <= names
    assert any(name.endswith(".safetensors") for name in names)
    assert not [name for name in names if "/training/" in name or name.endswith(("queries.toml", "evaluate.py"))]


def test_the_program_and_the_licence_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        about = {name.partition(".dist-info/")[2]: archive.read(name) for name in archive.namelist()}
    assert b"latent-assets = latent_assets.cli:main" in about["entry_points.txt"]
    assert b"Apache License" in about["licenses/LICENSE"]


# what using a checkout leaves in it
USED = [
    ".latent-assets/demo/lance/atlas.lance/data/0.lance", ".latent-assets/dagster/dagster.yaml", ".venv/bin/python",
    "images/cat.jpg", "links/mine.parquet", "mine.toml", "takedowns.txt", ".env", ".env.local", "tmp_notes/a.txt",
    "build/docs/index.html", "node_modules/x/index.js", "latent_assets/web/node_modules/three/three.js",
    "latent_assets/web/dist/index.html", "latent_assets/.DS_Store", ".git/config", "nohup.out",
    "latent_assets/cli/__pycache__/app.cpython-311.pyc", "infra/bench/__pycache__/fetch.cpython-311.pyc",
]  # fmt: skip


# below `tmp*/` or `build/` the checkout itself has a name that git is told to ignore
@pytest.mark.parametrize("place", ["checkout", "tmp_work/checkout", "build/checkout", ".latent-assets/checkout"])
def test_the_source_distribution_of_a_used_checkout_holds_nothing_private(tmp_path: Path, place: str) -> None:
    checkout = tmp_path / place
    heavy = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.webp", "node_modules", "dist")
    for folder in ("latent_assets", "latent_assets_tests", "infra"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=heavy)
    for file in (
        "pyproject.toml",
        "hatch_build.py",
        "README.md",
        "LICENSE",
        ".gitignore",
        "Makefile",
        "workspace.yaml",
    ):
        shutil.copy(ROOT / file, checkout / file)
    project = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()}
    for name in USED:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"x")
    (made,) = SdistBuilder(str(checkout)).build(directory=str(tmp_path / "made"))
    with tarfile.open(made) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names - {"PKG-INFO"} == project
