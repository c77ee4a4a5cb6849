"""What became of every row of the list, and what the atlas was made with: what a build and `status` end with.

Put together from the manifests of what is there; nothing is read again, and nothing is decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.errors import LatentAssetsError
from latent_assets.layout import LEDGERS, picture_name
from latent_assets.models.fit import unfit
from latent_assets.pipeline.manifests import WHOLE, Manifest
from latent_assets.pipeline.states import State

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage

_OK = "ok"


@dataclass(frozen=True)
class Limit:
    """Rows that a limit of the profile refused: its key, its value and how many."""

    key: str
    value: Any
    rows: int


@dataclass(frozen=True)
class ModelUse:
    """A model that vectors are made with. `trained_on`: the data it knows, "" when nobody says. `unfit`: why it does
    not know images like these, "" where it does."""

    embedding: str
    name: str
    digest: str
    trained_on: str
    unfit: str = ""


@dataclass(frozen=True)
class Report:
    """An account of the rows of the list, and what they were made with.

    rows_read = the `dropped` of all reasons + in_catalog; in_catalog = the `outcomes` of all reasons + unfetched;
    images = undecodable + those that go into the atlas. `in_atlas`: rows of the release, None where there is none.
    `release_current`: whether the release is of this catalog and these settings. `copies`: rows of the release whose
    file (by SHA-256) another row has, too, the first of each not counted; None where nobody counted. `notes`: what
    the list or its sidecars hold that was not used. `ledger`: the files with an outcome for every row, as a glob.
    """

    rows_read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    in_catalog: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    unfetched: int = 0
    images: int = 0
    undecodable: int = 0
    in_atlas: int | None = None
    release_current: bool = False
    copies: int | None = None
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()
    models: tuple[ModelUse, ...] = ()
    ledger: str | None = None
    map: str | None = None

    @property
    def lost(self) -> dict[str, int]:
        """Why rows of the catalog have no image that the models could be shown, the most frequent reason first."""
        found = {reason: rows for reason, rows in self.outcomes.items() if reason != _OK}
        found["undecodable"] = self.undecodable
        return dict(sorted(((k, n) for k, n in found.items() if n), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {**asdict(self), "lost": self.lost}


def make_report(lineage: Lineage, release_current: bool | None = None) -> Report:
    """The account of an atlas as it is now; of what is not there yet nothing is said.

    `release_current`: whether the table is current, where the caller has looked already.
    """
    metadata = lineage.manifests.get("laion_metadata")
    if metadata is None:
        return Report(models=tuple(_models(lineage)))
    details = lineage.details(metadata)
    shards = {key: rows for key, (rows, _) in details.shards.items()}
    images = {key: m for key, m in lineage.manifests.all("image_shards").items() if key in shards}
    outcomes: Counter[str] = Counter()
    for manifest in images.values():
        outcomes.update(lineage.details(manifest).reasons)
    table = lineage.manifests.get("atlas_table")
    if release_current is None:
        release_current = table is not None and lineage.artifact("atlas_table").state is State.CURRENT
    return Report(
        rows_read=details.rows_read,
        dropped={str(reason): int(count) for reason, count in details.funnel if count},
        in_catalog=metadata.rows,
        outcomes=dict(outcomes.most_common()),
        unfetched=sum(rows for key, rows in shards.items() if key not in images),
        images=outcomes[_OK],
        undecodable=_undecodable(lineage, images),
        in_atlas=None if table is None else table.rows,
        release_current=release_current,
        copies=None if table is None else lineage.details(table).copies,
        limits=tuple(_limits(lineage, outcomes)),
        notes=tuple(details.notes),
        models=tuple(_models(lineage)),
        ledger=lineage.storage.uri(LEDGERS) if images else None,
        map=_map(lineage, table),
    )


def _undecodable(lineage: Lineage, images: Mapping[str, Manifest]) -> int:
    """Images that a model could not be shown: those that the most embeddings lost."""
    lost = []
    for row in lineage.profile.embeddings:
        made = lineage.manifests.all(row.stage)
        lost.append(sum(len(lineage.details(m).undecodable) for key, m in made.items() if key in images))
    return max(lost, default=0)


def _limits(lineage: Lineage, outcomes: Mapping[str, int]) -> Iterator[Limit]:
    """The limits of [fetch] that refused rows."""
    from latent_assets.images.decisions import SETTING_OF
    from latent_assets.images.outcome import OUTCOME_OF, Outcome, Reason

    refused: Counter[str] = Counter()
    for reason, rows in outcomes.items():
        if OUTCOME_OF[Reason(reason)] is Outcome.REFUSED and (key := SETTING_OF.get(Reason(reason))):
            refused[key] += rows
    for key, rows in refused.most_common():
        yield Limit(f"fetch.{key}", getattr(lineage.profile.fetch, key), rows)


def _models(lineage: Lineage) -> Iterator[ModelUse]:
    reasons = unfit(lineage.profile)
    for row in lineage.profile.embeddings:
        try:
            seen = lineage.observed(row.source)
        except LatentAssetsError:  # `status` and `models` say what is wrong with it
            continue
        trained_on = str(seen.facts.get("trained_on", ""))
        yield ModelUse(row.name, str(seen.facts["model"]), seen.version, trained_on, reasons.get(row.name, ""))


def _map(lineage: Lineage, table: Manifest | None) -> str | None:
    """Where the picture of the release's maps lies, when there is one."""
    name = picture_name(f"atlas_table/{WHOLE}", "map", "png")
    return lineage.storage.uri(name) if table is not None and table.rows and lineage.storage.exists(name) else None
