"""Single modules of open_clip, without what the package's own import brings along (torchvision, timm, torch._dynamo).

That import takes seconds, and a search by words needs nothing of it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from latent_assets.errors import ModelError

_ALIAS = "_latent_assets_open_clip"


def part(name: str) -> Any:
    """The module `open_clip.NAME`; one that stands alone, when open_clip has not been imported here.

    Its classes are then not open_clip's: take only data and functions from it. Raises ModelError without open_clip.
    """
    if "open_clip" in sys.modules:
        return import_module(f"open_clip.{name}")
    if _ALIAS not in sys.modules:
        spec = find_spec("open_clip")
        if spec is None or not spec.submodule_search_locations:
            raise ModelError("The package open_clip_torch is not installed; pip install it.")
        package = ModuleType(_ALIAS)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_ALIAS] = package
    return import_module(f"{_ALIAS}.{name}")
