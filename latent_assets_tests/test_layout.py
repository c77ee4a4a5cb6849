"""`layout` is the one place that knows names below the root: no other module spells one, and a root holds no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import latent_assets
from latent_assets import layout

PACKAGE = Path(latent_assets.__file__).parent
FOLDERS = sorted(set(re.findall(r"^    (\w+)/", layout.__doc__ or "", re.M)))
# "images/s" is a unit, not a path
A_NAME = re.compile(rf"^({'|'.join(FOLDERS)})/(?!s$)")


def spelled(source: str) -> list[str]:
    """The string literals in `source`, docstrings apart, that are or begin a name below the root."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
    found = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings)
    return [n.value for n in found if isinstance(n.value, str) and A_NAME.match(n.value)]


def test_the_docstring_lists_the_folders() -> None:
    assert {"catalog", "images", "embeddings", "projection", "lance", "generated", "manifests", "claims"} <= set(
        FOLDERS
    )


@pytest.mark.parametrize("line", ['f"images/{part}.tar"', '"catalog/index.parquet"', 'x(f"manifests/{stage}")'])
def test_a_spelled_name_is_found(line: str) -> None:
    assert spelled(f'"""images/{{part}}.tar"""\n{line}\n')


def test_no_other_module_spells_a_name() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "layout.py"]
    assert len(files) > 100
    found = {str(file.relative_to(PACKAGE)): names for file in files if (names := spelled(file.read_text()))}
    assert not found
