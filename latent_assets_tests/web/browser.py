"""A real Chromium for the tests: the system's, installed when it is not there and this user may.

`python -m latent_assets_tests.web.browser` is what `make test` runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Error, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_APT = (
    ["apt-get", "update", "-qq"],
    ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
)
# WebGL2 in software, as on a machine without a screen
_ARGUMENTS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-sandbox"]


def find_chromium() -> str | None:
    """Path of a Chromium: the system's, or the one that Playwright downloaded."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
        found = own if Path(own).is_file() else None
    return found


def install_chromium() -> None:
    """Have a Chromium: of Debian for root, from Playwright's servers for others."""
    if find_chromium():
        return
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    commands = (
        _APT if root and shutil.which("apt-get") else ([sys.executable, "-m", "playwright", "install", "chromium"],)
    )
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if find_chromium() is None:
        sys.exit("No Chromium for the tests of the viewer: install the package `chromium` of this system.")


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A headless Chromium that renders WebGL2 in software. Raises AssertionError when there is none."""
    path = find_chromium()
    assert path is not None, "no Chromium: run `python -m latent_assets_tests.web.browser`"
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=[*_ARGUMENTS, *arguments])
        except Error as error:
            raise AssertionError(f"{path} does not start: {error}") from error
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    install_chromium()
