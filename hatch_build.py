"""Builds the viewer into the wheel. An editable installation does without it when its parts cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ViewerBuildHook(BuildHookInterface[Any]):
    """Runs before files are collected; sources that did not change are not built again."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the viewer beside its sources. version: "editable" or "standard"."""
        file = Path(self.root) / "latent_assets" / "web" / "building.py"
        spec = importlib.util.spec_from_file_location("viewer_building", file)
        assert spec is not None and spec.loader is not None
        building = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(building)
        try:
            building.build_viewer(file.parent)
        except building.ViewerError as error:
            if version != "editable":
                raise
            self.app.display_warning(f"{error}\nThe package is installed without its viewer: `make viewer` builds it.")
