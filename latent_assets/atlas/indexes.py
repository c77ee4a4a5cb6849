"""The indexes of a version of the table: which there are, and building them in one commit.

They are made anew with every version but one that differs in places alone, which keeps them (`fragments`).

| index | of | answers |
|---|---|---|
| `id_idx` B-tree | `id` | rows by id |
| `caption_words` inverted | `caption` | words, ranked by BM25; segmented by ICU, Chinese and Thai too |
| `caption_ngram` trigrams | `caption` | `contains(caption, '...')` |
| `category_idx` bitmap, `aesthetic_idx` B-tree | | filters |
| `NAME_idx` IVF_RQ | every embedding, above `table.index_above_rows` | nearest vectors |

Vectors are stored a second time with four bits a dimension (RaBitQ), in lists around centres; what those propose is
compared exactly. `infra/bench/indexes.py` compares the kinds: at 635,000 rows of 768 values this one answers in half
the time of eight bits (IVF_SQ), takes half the memory, and is built in a fraction of the time of product quantization.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.atlas.fragments import commit_after, table_files
from latent_assets.atlas.table import DISTANCES, WORDS, open_table, writing
from latent_assets.layout import ATLAS_TABLE, index_folder, table_file

if TYPE_CHECKING:
    import lance
    from lancedb.table import LanceTable

    from latent_assets.atlas.card import ReleaseInfo
    from latent_assets.storage import Storage

VECTOR_KIND = "IVF_RQ"
_BITS = 4  # of a quantized vector, for each dimension


@dataclass(frozen=True)
class _Index:
    name: str
    column: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)


_WORDS = {
    "base_tokenizer": "icu",
    "lower_case": True,
    "ascii_folding": True,
    "stem": False,
    "remove_stop_words": False,
    "with_position": False,
}
_SCALAR = (
    _Index("id_idx", "id", "BTREE"),
    _Index(WORDS, "caption", "INVERTED", _WORDS),
    _Index("caption_ngram", "caption", "NGRAM"),
    _Index("category_idx", "category", "BITMAP"),
    _Index("aesthetic_idx", "aesthetic", "BTREE"),
)


def list_count(rows: int) -> int:
    """In how many lists vectors are put: a sixth of the root, so that neither centres nor lists are many."""
    return max(1, round(math.sqrt(rows) / 6))


def _wanted(release: ReleaseInfo, rows: int, vectors: bool) -> Iterator[_Index]:
    yield from _SCALAR
    if vectors:
        for name, metric in release.metrics.items():
            options = {"metric": DISTANCES[metric], "num_partitions": list_count(rows), "num_bits": _BITS}
            yield _Index(f"{name}_idx", name, VECTOR_KIND, options)


def build_indexes(storage: Storage, version: int, release: ReleaseInfo, vectors: bool) -> int:
    """Index a version that was just made; returns the version that has all indexes. With `vectors` those, too.

    Raises StorageError when the storage refuses, OvertakenError when another version was made meanwhile; no tag moves.
    """
    import lance

    uri = storage.lance_uri
    dataset = open_table(uri, version).to_lance()
    rows = dataset.count_rows()
    fragments = [fragment.fragment_id for fragment in dataset.get_fragments()]
    made = []
    with writing(uri):
        for one in _wanted(release, rows, vectors):
            built = dataset.create_index_uncommitted(
                one.column, one.kind, name=one.name, fragment_ids=fragments, **one.options
            )
            made.append(_whole(storage, dataset, built) if one.kind == "INVERTED" else built)
    return commit_after(uri, version, lance.LanceOperation.CreateIndex(made, []))


def _whole(storage: Storage, dataset: lance.LanceDataset, built: Any) -> Any:
    """A full-text index is written in parts, and can be read once they were merged; the parts are not needed then."""
    merged = dataset.merge_existing_index_segments([built])
    if merged.uuid != built.uuid:
        storage.delete(index_folder(ATLAS_TABLE, built.uuid))
    return merged


def release_files(storage: Storage, version: int) -> list[str]:
    """Names below the root of all data and index files that a version consists of; none of them is read."""
    dataset = open_table(storage.lance_uri, version).to_lance()
    names = [table_file(ATLAS_TABLE, file.name) for file in table_files(storage, version)]
    for index in dataset.describe_indices():
        for segment in index.segments:
            names += (file.name for file in storage.files(index_folder(ATLAS_TABLE, str(segment.uuid))))
    return sorted(names)


def are_kept(table: LanceTable, before: ReleaseInfo, release: ReleaseInfo, vectors: bool) -> bool:
    """Whether a version has all the indexes that `release`, of the same rows, would be given. Reads no index."""
    lists = list_count(table.count_rows())
    wanted = dict.fromkeys(release.metrics, (VECTOR_KIND, lists)) if vectors else {}
    there = {name: (said["index"], said["lists"]) for name, said in before.search.items()}
    return there == wanted and before.metrics == release.metrics and not missing_indexes(table, before)


def missing_indexes(table: LanceTable, release: ReleaseInfo) -> list[str]:
    """Indexes that a version should have and has not, or that lack rows of it. Reads no index."""
    rows = table.count_rows()
    if not rows:
        return []
    there = {index.name: index for index in table.list_indices()}
    missing = []
    for one in _wanted(release, rows, bool(release.search)):
        index = there.get(one.name)
        if index is None:
            missing.append(one.name)
        elif index.num_indexed_rows != rows:
            missing.append(f"{one.name} ({index.num_indexed_rows:,} of {rows:,} rows)")
    return missing
