"""Embedding Atlas, the real tool, in an environment of its own: it wants other versions of packages than this one has.

`python -m latent_assets_tests.embedding_atlas` is what `make test` runs before the tests, which load nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_WANTED = "embedding-atlas==0.26.0"


def program() -> Path:
    """The command `embedding-atlas`, there or not."""
    return _folder() / ("Scripts" if os.name == "nt" else "bin") / "embedding-atlas"


def install() -> None:
    """Install it, unless it is there. Raises CalledProcessError."""
    said = _folder() / "wanted.txt"
    if program().is_file() and said.is_file() and said.read_text(encoding="utf-8") == _WANTED:
        return
    uv = str(Path(sys.executable).parent / "uv")
    try:
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(_folder())], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(_folder()), _WANTED], check=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(_folder(), ignore_errors=True)
        raise
    said.write_text(_WANTED, encoding="utf-8")


def _folder() -> Path:
    return Path(sys.prefix) / "embedding-atlas"


if __name__ == "__main__":
    install()
