"""The command line: `latent-assets ...`. Parses, calls the library, prints; no work of its own.

One module for each group of commands; `app` puts them together. Heavy modules are imported inside the
commands, so that `--help` and wrong usage answer at once.
"""

from latent_assets.cli.app import main

__all__ = ["main"]
