"""Where commands print: results to standard output, what happens meanwhile to standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON does not know is printed as text."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
