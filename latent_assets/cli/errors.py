"""How a command ends that failed: one paragraph and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from latent_assets.cli.console import err
from latent_assets.errors import LatentAssetsError
from latent_assets.limits import shortage

DEBUG_VARIABLE = "LATENT_ASSETS_DEBUG"


def explaining(run: Callable[[], Any]) -> Callable[[], None]:
    """Errors as one paragraph and an exit code; with --debug as they are."""

    @wraps(run)
    def main() -> None:
        try:
            run()
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            shown = error if isinstance(error, LatentAssetsError) else shortage(error) or error
            known = isinstance(shown, LatentAssetsError)
            text = str(shown) if known else f"unexpected {type(error).__name__}: {error} (more with --debug)"
            err.print("error:", style="bold red", end=" ")
            err.print(text, highlight=False, markup=False)
            sys.exit(shown.exit_code if isinstance(shown, LatentAssetsError) else 70)

    return main
