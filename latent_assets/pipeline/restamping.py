"""Manifests after rows were taken out of files: what was current is current again, what was not is what it was.

Nothing is made: files are as long as they are, versions follow from what is in them, recipes from the parents' versions
of now. Only the table is published anew. What cannot be told from its files is forgotten, and made by the next build.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from latent_assets.errors import LatentAssetsError
from latent_assets.layout import TILES, picture_folder
from latent_assets.pipeline.manifests import WHOLE, Manifest, Recipe
from latent_assets.pipeline.states import View
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.atlas.card import ReleaseInfo
    from latent_assets.atlas.removal import TableRemoval
    from latent_assets.pipeline.lineage import Lineage

_KEPT_CALIBRATION = 0.99  # share of the fitted rows that must be left for distances between them to stay usual
_GENERATED_PICTURES = "generated_projection/last"


class Restamping:
    """Brings the manifests of an atlas up to its files. Begun again after a kill, it ends what it began.

    shards: those that lost rows. current: by stage what was current before. fitted: how many rows the maps had then.

    After `run`: `rebuilt` names what the next build makes again, `pictures` those made anew, by stage and key.
    """

    def __init__(
        self, lineage: Lineage, shards: Sequence[str], current: Mapping[str, Collection[str]], fitted: int
    ) -> None:
        self._lineage, self._shards = lineage, [shard for shard in shards if shard in lineage.shards()]
        self._current = {stage: set(keys) for stage, keys in current.items()}
        self._fitted_before = fitted
        self.rebuilt: list[str] = []
        self.pictures: dict[tuple[str, str], dict[str, bytes]] = {}

    def run(self, ids: Collection[str]) -> TableRemoval:
        """Stage by stage in build order; publishes the release without the rows `ids` where the table's turn is."""
        table: TableRemoval | None = None
        for name, stage in self._lineage.stages.items():
            if name == "atlas_table":
                table = self._publish(ids)
            elif name in self._handlers:
                self._handlers[name](self)
            elif stage.group == "embeddings" and stage.sharded:
                self._vectors(name, ids)
            else:
                self._forget(name)
        assert table is not None
        return table

    def drop_pictures(self) -> int:
        """Remove the pictures that may show what was taken out; those made anew are written by whoever shows them."""
        storage, names = self._lineage.storage, []
        for name, stage in self._lineage.stages.items():
            keys = self._shards if stage.sharded else [WHOLE]
            names += [f"{name}/{key}" for key in keys]
        names.append(_GENERATED_PICTURES)
        found = [file.name for name in names for file in storage.files(picture_folder(name))]
        for name in found:
            storage.delete(name)
        return len(found)

    # -- the stages ----------------------------------------------------------------------------------

    def _catalog(self) -> None:
        from latent_assets.catalog.filters import TAKEN_DOWN
        from latent_assets.catalog.shards import ShardEntry, catalog_version, read_index

        before = self._lineage.manifests.get("laion_metadata")
        if before is None:
            return
        index = read_index(self._lineage.storage)
        listed: dict[str, Sequence[Any]] = {shard: list(entry) for shard, entry in before.details["shards"].items()}
        now: dict[str, Sequence[Any]] = {
            s: [index[s].rows, index[s].hash] if s in index else entry for s, entry in listed.items()
        }
        rows = sum(int(entry[0]) for entry in now.values())
        funnel = {str(reason): int(count) for reason, count in before.details["funnel"]}
        funnel[TAKEN_DOWN] = funnel.get(TAKEN_DOWN, 0) + before.rows - rows
        details = {**before.details, "shards": now, "funnel": [list(step) for step in funnel.items()]}
        version = catalog_version({shard: ShardEntry(*entry) for shard, entry in now.items()})
        self._commit(before, lambda recipe: version, rows, details)

    def _catalog_shards(self) -> None:
        """Reading a shard and counting is all there is to it."""
        for shard in self._shards:
            if shard in self._current["shard_catalog"]:
                result = self._lineage.ensure(["shard_catalog"], shard)["shard_catalog"]
                if isinstance(result, Exception):
                    raise result
            else:
                self._lineage.manifests.forget("shard_catalog", shard)

    def _images(self) -> None:
        from latent_assets.images.contact_sheet import contact_sheet
        from latent_assets.images.download.health import health_of
        from latent_assets.images.outcome import Reason
        from latent_assets.images.shard import shard_files
        from latent_assets.images.store.ledger import read_ledger, shard_version
        from latent_assets.images.store.tar import read_images

        storage = self._lineage.storage
        for shard in self._shards:
            before = self._lineage.manifests.get("image_shards", shard)
            if before is None:
                continue
            ledger = read_ledger(storage, shard)
            counted = ledger.group_by("reason").len().select(pl.col("reason").cast(pl.String), "len")
            reasons = dict(sorted(counted.iter_rows(), key=lambda item: (-item[1], item[0])))
            images = ledger.filter(pl.col("reason") == Reason.OK.value)
            version = shard_version(zip(images["id"], images["stored_sha256"], strict=True))
            files = shard_files(storage, shard)
            health = health_of(self._lineage.profile.fetch, reasons)
            details = {
                **before.details,
                "images": images.height,
                "success": round(health.success, 4),
                "reasons": reasons,
                "bytes": sum(storage.size(name) for name in files if name.endswith(".tar")),
                "health": health.message,
            }
            self._commit(before, _constant(version), images.height, details, files)
            if images.height:
                sheet = contact_sheet(data for _, data in read_images(storage, shard))
                self.pictures["image_shards", shard] = {"contact sheet": sheet}

    def _vectors(self, stage: str, ids: Collection[str]) -> None:
        from latent_assets.embeddings.store import read_id_array

        storage = self._lineage.storage
        for shard in self._shards:
            before = self._lineage.manifests.get(stage, shard)
            if before is None:
                continue
            sizes = storage.sizes(before.files)
            if any(size is None for size in sizes.values()):
                self._lineage.manifests.forget(stage, shard)
                continue
            details = {
                **before.details,
                "undecodable": [row for row in before.details["undecodable"] if row not in ids],
                "bytes": sum(size for size in sizes.values() if size is not None),
            }
            rows = len(read_id_array(storage, next(iter(before.files))))
            self._commit(before, lambda recipe, before=before: _followed(before, recipe), rows, details)  # type: ignore[misc]

    def _manifest(self) -> None:
        lineage = self._lineage
        before = lineage.manifests.get("embedding_manifest")
        if before is None:
            return
        shards, stages = lineage.shards(), [row.stage for row in lineage.profile.embeddings]
        found = {stage: lineage.manifests.all(stage) for stage in stages}
        images = lineage.manifests.all("image_shards")
        known = {stage: [found[stage][shard] for shard in shards if shard in found[stage]] for stage in stages}
        lost = {stage: sum(len(m.details["undecodable"]) for m in known[stage]) for stage in stages}
        details = {
            **before.details,
            "images": sum(images[shard].rows for shard in shards if shard in images),
            "undecodable": max(lost.values(), default=0),
            "bytes": {stage: sum(sum(m.files.values()) for m in known[stage]) for stage in stages},
        }
        rows = max((sum(m.rows for m in known[stage]) for stage in stages), default=0)
        chosen = {name: choice["chosen"] for name, choice in before.details["features"].items()}
        self._commit(before, lambda recipe: fingerprint(recipe.fingerprint, chosen), rows, details)

    def _model(self) -> None:
        """The maps of the remaining rows lie under the fingerprint of what they are made from now."""
        from latent_assets.layout import model_name
        from latent_assets.pipeline.makers.projection import model_picture
        from latent_assets.projection.header import read_header
        from latent_assets.projection.model import model_files
        from latent_assets.projection.removal import move_projection

        lineage = self._lineage
        before = lineage.manifests.get("umap_model")
        if before is None:
            return
        old, new = before.fingerprint, before.fingerprint
        if (recipe := self._recipe("umap_model", WHOLE)) is not None:
            new = recipe.fingerprint
        if new != old and lineage.storage.exists(model_name(old)):
            move_projection(lineage.storage, old, new)
        if not lineage.storage.exists(model_name(new)):
            lineage.manifests.forget("umap_model", WHOLE)
            return
        report = read_header(lineage.storage, new)["report"]
        gone = sum(m.rows for m in lineage.manifests.all("embedding_manifest").values())
        details = {**before.details, "total_rows": gone, "bytes": lineage.storage.size(model_name(new))}
        version = fingerprint(new, report["version"])
        self._commit(before, _constant(version), report["rows"], details, model_files(lineage.storage, new))
        if report["rows"]:
            self.pictures["umap_model", WHOLE] = {"map": model_picture(lineage, new, before.details["spaces"])}

    def _coordinates(self) -> None:
        from latent_assets.layout import coords_name, model_of
        from latent_assets.projection.model import content_version
        from latent_assets.projection.shard import read_coords

        lineage = self._lineage
        view = self._view()
        for shard, before in lineage.manifests.all("umap_projection").items():
            old = model_of(next(iter(before.files)))
            fitted = self._fit_of(old)
            if shard not in self._shards and fitted == old:
                continue
            name = coords_name(fitted, shard)
            if not lineage.storage.exists(name):
                lineage.manifests.forget("umap_projection", shard)
                continue
            version, rows, details = before.version, before.rows, before.details
            if shard in self._shards:
                frame = read_coords(lineage.storage, fitted, shard)
                spaces = [column for column in frame.columns if column.startswith("xyz_")]
                places = {c.removeprefix("xyz_"): frame[c].to_numpy().reshape(-1, 3) for c in spaces}
                version, rows = content_version(places, frame["id"].to_list()), frame.height
                of_fit = int(frame["fitted"].sum())
                details = {"fitted": of_fit, "placed": rows - of_fit, "bytes": lineage.storage.size(name)}
            self._commit(before, _constant(version), rows, details, [name], view)

    def _labels(self) -> None:
        """Clusters stay, under the fingerprint of what they are made from now; their names are of what is left."""
        from latent_assets.atlas.labels.build import describe_anew
        from latent_assets.atlas.labels.removal import are_whole, drop_others, move_labels
        from latent_assets.pipeline.makers.labels import label_output

        lineage, stage = self._lineage, "atlas_labels"
        before, fit = lineage.manifests.get(stage), lineage.manifests.get("umap_model")
        if before is None:
            return drop_others(lineage.storage, None)
        old, new = before.fingerprint, before.fingerprint
        if (recipe := self._recipe(stage, WHOLE)) is not None:
            new = recipe.fingerprint
        if new != old and are_whole(lineage.storage, old, ()):
            move_labels(lineage.storage, old, new)
        shards, profile = lineage.shards(), lineage.profile
        placed = lineage.manifests.all("umap_projection")
        # labels of other maps or shards than those of now are made by the next build
        if (
            recipe is None
            or fit is None
            or not are_whole(lineage.storage, new, shards)
            or not set(shards) <= set(placed)
        ):
            self._forget(stage)
            return drop_others(lineage.storage, None)
        drop_others(lineage.storage, new)
        report = describe_anew(
            lineage.storage, new, fit.fingerprint, shards, profile.projection.spaces, profile.labels.boilerplate
        )
        output = label_output(lineage, new, report)
        details = {**before.details, **asdict(output.details), "kept": before.details["kept"]}
        self._commit(before, _constant(output.version), output.rows, details, output.files)
        if output.pictures:
            self.pictures[stage, WHOLE] = dict(output.pictures)
        return None

    def _publish(self, ids: Collection[str]) -> TableRemoval:
        from latent_assets.atlas.indexes import release_files
        from latent_assets.atlas.pictures import release_pictures
        from latent_assets.atlas.removal import drop_rows

        lineage = self._lineage
        recipe = self._recipe("atlas_table", WHOLE)

        def describe(card: ReleaseInfo) -> ReleaseInfo:
            projection = self._fit_of(card.projection)
            made_from = recipe.fingerprint if recipe else fingerprint("takedown", card.fingerprint, sorted(ids))
            kept = lineage.manifests.get("atlas_labels")  # what another run of this takedown moved is there, too
            labels = kept.fingerprint if card.labels and kept is not None else card.labels
            return replace(card, projection=projection, labels=labels, fingerprint=made_from)

        removal = drop_rows(lineage.profile, lineage.storage, ids, describe)
        before = lineage.manifests.get("atlas_table")
        if removal.published is None:
            lineage.manifests.forget("atlas_table", WHOLE)
        elif before is not None:
            release = removal.published
            names = release_files(lineage.storage, release.version)
            details = {
                **before.details,
                "tag": release.tag,
                "version": release.version,
                "replaced": None,
                "freed": removal.freed,
                "search": release.info.search,
            }
            self._commit(before, lambda recipe: _followed(before, recipe), release.info.rows, details, names)
            if pictures := release_pictures(lineage.storage.lance_uri, release.version):
                self.pictures["atlas_table", WHOLE] = pictures
        return removal

    def _tiles(self) -> None:
        """Those of releases that are gone go, and the pictures that releases shared; the live one's are made anew."""
        lineage = self._lineage
        lineage.storage.delete(TILES)
        lineage.manifests.forget("atlas_tiles", WHOLE)
        if WHOLE in self._current.get("atlas_tiles", ()):
            lineage.known_whole.clear()
            result = lineage.ensure(["atlas_tiles"])["atlas_tiles"]
            if not isinstance(result, Exception):
                self.pictures["atlas_tiles", WHOLE] = dict(result.pictures)
                return
        self.rebuilt.append("atlas_tiles")

    def _calibration(self) -> None:
        """What is usual between real images stays so when few of them are gone; else it is measured anew."""
        from latent_assets.atlas.card import ReleaseInfo
        from latent_assets.atlas.table import LIVE, open_table
        from latent_assets.generated.placement.placing import calibration_key
        from latent_assets.layout import calibration_name

        lineage, storage = self._lineage, self._lineage.storage
        before = lineage.manifests.get("placement_calibration")
        if before is None:
            return
        left = self._fitted() / self._fitted_before if self._fitted_before else 1.0
        name = calibration_name(before.details["key"])
        if left < _KEPT_CALIBRATION or self._recipe(before.stage, WHOLE) is None or not storage.exists(name):
            self._forget("placement_calibration")
            return
        table = open_table(storage.lance_uri, LIVE)
        key = calibration_key(ReleaseInfo.of_schema(table.schema, storage.lance_uri))
        storage.move(name, calibration_name(key))
        details = {**before.details, "key": key, "release": int(table.version)}
        version = fingerprint("kept", before.version, key)
        self._commit(before, _constant(version), before.rows, details, [calibration_name(key)])

    def _forget(self, stage: str) -> None:
        """What follows from all rows and cannot be shortened: it is removed, and the next build makes it."""
        manifests = self._lineage.manifests
        for key, manifest in manifests.all(stage).items():
            for name in manifest.files:
                self._lineage.storage.delete(name)
            manifests.forget(stage, key)
            self.rebuilt.append(stage if key == WHOLE else f"{stage}[{key}]")

    _handlers: Mapping[str, Callable[[Restamping], None]] = {
        "laion_metadata": _catalog,
        "shard_catalog": _catalog_shards,
        "image_shards": _images,
        "embedding_manifest": _manifest,
        "umap_model": _model,
        "umap_projection": _coordinates,
        "atlas_labels": _labels,
        "atlas_tiles": _tiles,
        "placement_calibration": _calibration,
    }

    # -- inside --------------------------------------------------------------------------------------

    def _fitted(self) -> int:
        found = self._lineage.manifests.get("umap_model")
        return found.rows if found else 0

    def _fit_of(self, projection: str) -> str:
        """The fingerprint that maps have now: those of the manifest were moved when theirs are not there any more."""
        from latent_assets.layout import model_name

        manifest = self._lineage.manifests.get("umap_model")
        if manifest is None or self._lineage.storage.exists(model_name(projection)):
            return projection
        return manifest.fingerprint

    def _view(self) -> View:
        self._lineage.known_whole.clear()
        return View(self._lineage, bulk=False)

    def _recipe(self, stage: str, key: str, view: View | None = None) -> Recipe | None:
        """What an artefact that was current is made from now; None for one that was not, or whose parents are not."""
        if key not in self._current.get(stage, ()):
            return None
        try:
            return (view or self._view()).recipe(stage, key, strict=False)
        except LatentAssetsError:
            return None

    def _commit(
        self,
        before: Manifest,
        version: Callable[[Recipe], str],
        rows: int,
        details: Mapping[str, Any],
        files: Iterable[str] | None = None,
        view: View | None = None,
    ) -> None:
        recipe = self._recipe(before.stage, before.key, view) or before.recipe
        sizes = self._lineage.storage.sizes(before.files if files is None else files)
        self._lineage.manifests.commit(
            replace(
                before,
                recipe=recipe,
                version=version(recipe),
                rows=rows,
                created=0.0,
                files={name: size for name, size in sizes.items() if size is not None},
                details=dict(details),
            )
        )


def _constant(version: str) -> Callable[[Recipe], str]:
    return lambda recipe: version


def _followed(before: Manifest, recipe: Recipe) -> str:
    """The version of what is told by its recipe alone."""
    return recipe.fingerprint if recipe != before.recipe else before.version
