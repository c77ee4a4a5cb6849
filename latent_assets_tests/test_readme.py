"""What the README says of the code is what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from latent_assets.images.outcome import OUTCOME_OF, Outcome, Reason
from latent_assets.profile import parse_profile, shipped_profiles

README = Path(__file__).parent.parent / "README.md"
PACKAGE = README.parent / "latent_assets"


@pytest.mark.parametrize("table", ["atlas", "generated", "sources"])
def test_the_schema_is_the_codes(table: str) -> None:
    text = README.read_text(encoding="utf-8")
    found = re.search(
        rf"<!-- schema: written by `latent-assets schema {table}` -->\n(.*?)<!-- /schema -->", text, re.DOTALL
    )
    # a process of its own: other tests register embeddings that are not the package's
    done = subprocess.run(
        [sys.executable, "-m", "latent_assets.cli", "schema", table], capture_output=True, text=True, check=True
    )
    assert found and found.group(1) == done.stdout, f"paste the output of `latent-assets schema {table}`"


def test_the_example_profile_is_valid(tmp_path: Path) -> None:
    import tomllib

    blocks = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "links").mkdir()
    whole, *parts = [tomllib.loads(block) for block in blocks]
    assert parse_profile(whole, tmp_path / "mine.toml", tmp_path).name == "mine"
    for part in parts:
        changed = whole | {table: {**whole.get(table, {}), **values} for table, values in part.items()}
        profile = parse_profile(changed, tmp_path / "mine.toml", tmp_path).model_dump()
        assert all(profile[table][key] == value for table, values in part.items() for key, value in values.items())


def test_every_reason_stands_beside_its_outcome() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*`) \|$", README.read_text(encoding="utf-8"), re.MULTILINE))
    for outcome in Outcome:
        reasons = {reason.value for reason in Reason if OUTCOME_OF[reason] is outcome}
        assert set(re.findall(r"`(\w+)`", rows[outcome.value])) == reasons


def test_links_and_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
    for name in shipped_profiles():
        assert f"`{name}`" in text, name


def tree() -> dict[str, set[str]]:
    """What the tree of the README names: folder of the checkout -> paths in it."""
    text = (
        README.read_text(encoding="utf-8").partition("## Where things are")[2].partition("```")[2].partition("```")[0]
    )
    found: dict[str, set[str]] = {}
    for line in text.strip().splitlines():
        paths = re.findall(r"(?<!\S)[\w.]+(?:/|\.py)(?=\s|$)", line)
        if not line.startswith(" "):
            folder, *paths = paths
            found[folder] = set()
        found[folder].update(paths)
    return found


def test_the_tree_names_what_there_is() -> None:
    named = tree()
    assert set(named) == {"latent_assets/", "latent_assets_tests/", "infra/"}
    for folder, paths in named.items():
        for path in ("", *paths):
            assert (README.parent / folder / path).exists(), folder + path
            assert path.endswith(".py") or (README.parent / folder / path).is_dir()
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/*") if path.is_file() and path.suffix != ".pyc"}
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert named["latent_assets/"] == folders | modules


def test_tests_mirror_the_package() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    tests = {path.parent.name for path in Path(__file__).parent.glob("*/__init__.py")}
    assert rooms <= tests and tests - rooms == {"e2e", "infra"}


def test_contributing_names_what_there_is() -> None:
    text = (README.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"latent_assets(?:_tests)?/[\w./]*\w", text):
        assert (README.parent / path).exists(), path
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
