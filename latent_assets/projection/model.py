"""The fitted maps as one file: what a later row needs to be placed, and what a person wants to know of the fit.

projection/{fingerprint}/model.safetensors
  ids uint8 [n, w] (ASCII, zero-padded); vectors_{embedding} float16 [n, k] (its chosen feature)
  coords_{space} float32 [n, 3]; header `model`: JSON of recipes, features, settings, versions and the fit's report
Opened, it is mapped into memory: of the vectors only what is near a placed image is read. Beside it lie the indexes
that find this (`index`).
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from latent_assets.layout import model_name, projection_folder
from latent_assets.profile import Projection
from latent_assets.projection.distances import Part, Points
from latent_assets.projection.features import Block, SpaceRecipe
from latent_assets.projection.header import read_header
from latent_assets.projection.index import make_index, open_index, store_index
from latent_assets.projection.mapped import map_arrays, write_arrays
from latent_assets.projection.neighbors import Index
from latent_assets.projection.placement import PlacementFigures, Placer
from latent_assets.storage import Storage

_KEPT_MODELS = 2
_VECTORS = "vectors_"
_loaded: OrderedDict[tuple[str, str], MapModel] = OrderedDict()


def _made(recipe: SpaceRecipe, points: Points) -> Index:
    return make_index(points, recipe.metric)


@dataclass(frozen=True)
class MapModel:
    """Fitted rows of all spaces. Arrays share the order of `ids`; there may be none.

    vectors: float16 [n, k] per embedding, its column `features[embedding]`; coords: float32 [n, 3] per space.
    placement: by space, how well rows are placed; {} for models of earlier versions. opened: gives the index of a
    space, made from its points where none is stored.
    """

    fingerprint: str
    ids: list[str]
    vectors: dict[str, np.ndarray]
    coords: dict[str, np.ndarray]
    recipes: tuple[SpaceRecipe, ...]
    features: dict[str, str]
    n_neighbors: int
    report: dict[str, Any]
    placement: dict[str, PlacementFigures] = field(default_factory=dict)
    opened: Callable[[SpaceRecipe, Points], Index] = field(default=_made, repr=False)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Position of each fitted id."""
        return {row_id: position for position, row_id in enumerate(self.ids)}

    @cached_property
    def placers(self) -> dict[str, Placer]:
        """What places further rows, per space; made at first use."""
        return {recipe.space: self._placer(recipe) for recipe in self.recipes}

    def _placer(self, recipe: SpaceRecipe) -> Placer:
        points = points_of(recipe, self.vectors)
        known = self.placement.get(recipe.space)
        typical = None if known is None else known.typical
        index = self.opened(recipe, points)
        return Placer(points, self.coords[recipe.space], recipe.metric, self.n_neighbors, index, typical)

    @property
    def version(self) -> str:
        """Hash of everything that decides where rows fall: 32 hexadecimal characters."""
        return str(self.report["version"])


def points_of(recipe: SpaceRecipe, vectors: Mapping[str, np.ndarray]) -> Points:
    """The features of a space as `recipe.features` makes them of `vectors`, without making them all at once."""
    return Points([Part(vectors[block.embedding], block.unit, block.scale) for block in recipe.blocks])


def content_version(arrays: dict[str, np.ndarray], decisions: Any) -> str:
    """Hash over named arrays and JSON-able decisions: 32 hexadecimal characters."""
    digest = hashlib.sha256(json.dumps(decisions, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:32]


def model_arrays(
    ids: list[str], vectors: Mapping[str, np.ndarray], coords: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays of the model file."""
    width = max((len(row_id.encode()) for row_id in ids), default=1)
    packed = np.array([row_id.encode() for row_id in ids], dtype=f"S{width}")
    arrays = {"ids": packed.view(np.uint8).reshape(len(ids), width)}
    arrays |= {f"{_VECTORS}{name}": values for name, values in vectors.items()}
    return arrays | {f"coords_{space}": values for space, values in coords.items()}


def write_model(storage: Storage, fingerprint: str, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    """Store the model atomically and the indexes of its maps; processes that keep models loaded read it anew."""
    vectors = {name: arrays[f"{_VECTORS}{name}"] for name in header["features"]}
    figures = {}
    for recipe in recipes_of(header):
        if not len(coords := arrays[f"coords_{recipe.space}"]):
            continue
        points, version = points_of(recipe, vectors), header["report"]["version"]
        # an index of other maps is not used: whoever opens the model in between makes one
        index = store_index(storage, fingerprint, recipe.space, version, points, recipe.metric)
        placer = Placer(points, coords, recipe.metric, header["settings"]["n_neighbors"], index)
        figures[recipe.space] = asdict(placer.figures())
    with storage.writing(model_name(fingerprint)) as path:
        write_arrays(path, arrays, {"model": json.dumps(header | {"placement": figures}, sort_keys=True)})
    _loaded.pop((storage.root, fingerprint), None)


def model_files(storage: Storage, fingerprint: str) -> list[str]:
    """The names of all files of fitted maps: the model and the indexes beside it."""
    folder = projection_folder(fingerprint)
    return [f"{folder}/{name}" for name in storage.list(folder, ".safetensors")]


def load_model(storage: Storage, fingerprint: str) -> MapModel:
    """The fitted maps, read once per process (the last two stay loaded)."""
    key = (storage.root, fingerprint)
    if key in _loaded:
        _loaded.move_to_end(key)
        return _loaded[key]
    model = _loaded[key] = read_model(storage, fingerprint)
    while len(_loaded) > _KEPT_MODELS:
        _loaded.popitem(last=False)
    return model


def read_model(storage: Storage, fingerprint: str) -> MapModel:
    """The fitted maps as they are stored now. Raises NotBuiltError when they are not there."""
    header = read_header(storage, fingerprint)
    with storage.local(model_name(fingerprint)) as path:
        arrays, _ = map_arrays(path)
    ids = arrays["ids"]
    version = header["report"]["version"]
    return MapModel(
        fingerprint=fingerprint,
        ids=[row_id.decode() for row_id in ids.reshape(-1).view(f"S{ids.shape[1]}").tolist()],
        vectors={name: arrays[f"{_VECTORS}{name}"] for name in header["features"]},
        coords={recipe["space"]: arrays[f"coords_{recipe['space']}"] for recipe in header["recipes"]},
        recipes=recipes_of(header),
        features=header["features"],
        n_neighbors=header["settings"]["n_neighbors"],
        report=header["report"],
        placement={space: PlacementFigures(**known) for space, known in header.get("placement", {}).items()},
        opened=lambda recipe, points: open_index(storage, fingerprint, recipe.space, version, points, recipe.metric),
    )


def recipes_of(header: Mapping[str, Any]) -> tuple[SpaceRecipe, ...]:
    """The recipes that a model's header lists."""
    return tuple(
        SpaceRecipe(recipe["space"], recipe["metric"], tuple(Block(**block) for block in recipe["blocks"]))
        for recipe in header["recipes"]
    )


def header_of(
    recipes: tuple[SpaceRecipe, ...], features: Mapping[str, str], dims: Mapping[str, int], settings: Projection
) -> dict[str, Any]:
    """The part of the header that decides where rows fall. `features`, `dims`: column and width per embedding."""
    return {
        "recipes": [asdict(recipe) for recipe in recipes],
        "features": dict(features),
        "dims": dict(dims),
        "settings": settings.model_dump(mode="json"),
    }
