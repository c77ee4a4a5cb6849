"""Points as binary glTF 2.0 with what is known of each: EXT_mesh_features and EXT_structural_metadata.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, and the two extensions in the repository CesiumGS/glTF
(branch 3d-tiles-next). Every viewer shows places and colours; those that know the extensions also show the facts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FLOAT, _UBYTE = 5126, 5121
_POINTS, _ARRAY_BUFFER = 0, 34962
_CLASS = "image"


class _Buffer:
    """The one buffer of a file, and its views; each begins at a multiple of eight bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []

    def add(self, data: bytes, target: int | None = None) -> int:
        """Append a view; returns its number."""
        self.data += b"\0" * (-len(self.data) % 8)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view if target is None else {**view, "target": target})
        self.data += data
        return len(self.views) - 1


def points_glb(places: np.ndarray, colours: np.ndarray, facts: Mapping[str, Sequence[str]], copyright: str) -> bytes:
    """A glTF file of one mesh of points.

    places: float32 [n, 3], x, y, z with y up, n > 0. colours: uint8 [n, 3], sRGB. facts: texts of every point, by
    name; a name begins with a letter. copyright: what viewers have to show.
    """
    buffer = _Buffer()
    middle = ((places.min(axis=0).astype(np.float64) + places.max(axis=0)) / 2).astype(np.float32)
    local = np.ascontiguousarray(places - middle, "<f4")
    linear = _linear(colours)
    rgba = np.concatenate([linear, np.full((len(linear), 1), 255, np.uint8)], axis=1)
    features = np.arange(len(places), dtype="<f4")
    accessors = [
        _accessor(buffer.add(local.tobytes(), _ARRAY_BUFFER), _FLOAT, "VEC3", local),
        _accessor(buffer.add(rgba.tobytes(), _ARRAY_BUFFER), _UBYTE, "VEC4", rgba) | {"normalized": True},
        _accessor(buffer.add(features.tobytes(), _ARRAY_BUFFER), _FLOAT, "SCALAR", features[:, None]),
    ]
    for accessor in accessors[1:]:
        del accessor["min"], accessor["max"]
    properties = {name: _strings(buffer, values) for name, values in facts.items()}
    primitive = {
        "attributes": {"POSITION": 0, "COLOR_0": 1, "_FEATURE_ID_0": 2},
        "mode": _POINTS,
        "material": 0,
        "extensions": {
            "EXT_mesh_features": {"featureIds": [{"featureCount": len(places), "attribute": 0, "propertyTable": 0}]}
        },
    }
    document = {
        "asset": {"version": "2.0", "generator": "latent_assets", **({"copyright": copyright} if copyright else {})},
        "extensionsUsed": ["EXT_mesh_features", "EXT_structural_metadata", "KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": middle.astype(float).tolist()}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"extensions": {"KHR_materials_unlit": {}}}],
        "accessors": accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
        "extensions": {
            "EXT_structural_metadata": {
                "schema": {
                    "id": "latent_assets",
                    "classes": {_CLASS: {"properties": {name: {"type": "STRING"} for name in facts}}},
                },
                "propertyTables": [{"class": _CLASS, "count": len(places), "properties": properties}],
            }
        },
    }
    return _glb(document, bytes(buffer.data))


def _accessor(view: int, component: int, kind: str, values: np.ndarray) -> dict[str, Any]:
    low, high = values.min(axis=0).astype(float).tolist(), values.max(axis=0).astype(float).tolist()
    return {
        "bufferView": view, "componentType": component, "count": len(values), "type": kind, "min": low, "max": high,
    }  # fmt: skip


def _strings(buffer: _Buffer, values: Sequence[str]) -> dict[str, Any]:
    encoded = [value.encode("utf-8", "replace") for value in values]
    offsets = np.zeros(len(encoded) + 1, "<u4")
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    # a view cannot be empty
    data = b"".join(encoded) or b"\0"
    return {"values": buffer.add(data), "stringOffsets": buffer.add(offsets.tobytes()), "stringOffsetType": "UINT32"}


def _linear(colours: np.ndarray) -> np.ndarray:
    """Colours of vertices are linear in glTF: uint8 [n, 3] of sRGB."""
    shares = colours.astype(np.float64) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.rint(linear * 255), np.uint8)


def _glb(document: Mapping[str, Any], binary: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    whole = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, whole),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        ]
    )
