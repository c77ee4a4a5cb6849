"""Finding and opening the atlas table in LanceDB: its address, credentials for s3://, versions and tags.

Reading and writing rows is done by those who open it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from latent_assets.errors import DataError, LatentAssetsError, NotBuiltError, QueryError, StorageError
from latent_assets.layout import ATLAS_TABLE, table_folder
from latent_assets.limits import shortage
from latent_assets.storage import Storage, plain_path

if TYPE_CHECKING:
    from lancedb.query import LanceFtsQueryBuilder, LanceVectorQueryBuilder
    from lancedb.table import LanceTable

LIVE = "live"
WORDS = "caption_words"  # the index of captions by their words
# an embedding's metric -> LanceDB's name of it
DISTANCES: dict[str, Literal["cosine", "l2"]] = {"cosine": "cosine", "euclidean": "l2"}
# with a vector index: how many lists are searched at least, and how many times k are compared exactly
LISTS = 16
_REFINE, _REFINE_MANY, _MANY = 5, 2, 200
_DEEP = 500  # more of them for every so many answers

_S3_OPTIONS = {
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
    "AWS_REGION": "aws_region",
    "AWS_DEFAULT_REGION": "aws_region",
    "AWS_ENDPOINT_URL": "aws_endpoint",
    "AWS_ENDPOINT_URL_S3": "aws_endpoint",
}
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_OVERTAKEN = "incompatible with concurrent transaction"
_ABSENT = ("not found", "no longer exists", "does not exist", "ref is invalid")


def table_uri(lance_uri: str) -> str:
    """Address of the atlas table in a LanceDB directory."""
    return f"{lance_uri.rstrip('/')}/{table_folder(ATLAS_TABLE)}"


def lance_address(lance_uri: str) -> str:
    """A LanceDB directory as LanceDB is given it: Lance reads local paths as URLs, and so makes others of some."""
    if "://" in lance_uri:
        return lance_uri
    folder = Path(lance_uri)
    return str(plain_path(folder.parent) / folder.name)


def release_tag(version: int) -> str:
    """The lasting tag of a published version."""
    return f"release-{version:05d}"


def table_options(lance_uri: str) -> dict[str, str] | None:
    """Storage options of an s3:// address from the usual AWS variables, None for a local directory."""
    if not lance_uri.startswith("s3://"):
        return None
    options = {option: value for name, option in _S3_OPTIONS.items() if (value := os.environ.get(name))}
    # about a minute, as long as other calls are made again
    options |= {"client_max_retries": "100", "client_retry_timeout": "60"}
    if options.get("aws_endpoint", "").startswith("http://"):
        options["allow_http"] = "true"
    return options


def table_exists(lance_uri: str) -> bool:
    """Whether there is an atlas table, published or not."""
    try:
        open_table(lance_uri, None)
    except NotBuiltError:
        return False
    return True


def open_table(lance_uri: str, version: int | str | None) -> LanceTable:
    """The table at a version number or a tag; None is the last commit, published or not.

    Raises NotBuiltError when the table, the version or the tag is not there, StorageError when the storage
    refuses.
    """
    uri = table_uri(lance_uri)
    # connecting to a directory that is not there would make it
    if "://" not in uri and not Path(uri).is_dir():
        raise NotBuiltError(f"{lance_uri} has no atlas table. Run `latent-assets build`, or give another address.")
    import lancedb

    try:
        table = lancedb.connect(lance_address(lance_uri), storage_options=table_options(lance_uri)).open_table(
            ATLAS_TABLE
        )
        if version is not None:
            table.checkout(version)
        return table
    except (ValueError, OSError, RuntimeError) as error:
        if is_absent(error):
            wanted = "no atlas table" if version is None else f"no atlas table, or not the release `{version}`"
            raise NotBuiltError(
                f"{lance_uri} has {wanted}. Run `latent-assets build`, or give another address."
            ) from error
        if (fault := shortage(error, wrapped=True)) is not None:
            raise fault from error
        raise StorageError(
            f"{uri} cannot be opened ({brief(error)}). Check the address and the credentials."
        ) from error


def is_absent(error: BaseException) -> bool:
    """Whether Lance means that a table, a version or a tag is not there."""
    text = str(error).lower()
    return any(reason in text for reason in _ABSENT)


def nearest(
    table: LanceTable, embedding: str, metric: str, vector: np.ndarray, k: int, lists: int = LISTS
) -> LanceVectorQueryBuilder:
    """The search for the k rows nearest to `vector`, float [d], by an embedding; with an index or without.

    lists: how many lists of an index are searched at least; all of them where a filter leaves too few answers.
    """
    search = table.search(np.asarray(vector, np.float32), vector_column_name=embedding)
    search = search.distance_type(DISTANCES[metric]).refine_factor(_REFINE if k <= _MANY else _REFINE_MANY)
    return search.minimum_nprobes(lists * (1 + k // _DEEP)).maximum_nprobes(0).limit(k)


def matching(table: LanceTable, text: str, k: int) -> LanceFtsQueryBuilder:
    """The search for the k rows whose captions say most of the words of `text` (BM25), best first."""
    from lancedb.query import MatchQuery

    search: LanceFtsQueryBuilder = table.search(MatchQuery(text, "caption"), query_type="fts").limit(k)
    return search


def has_words(table: LanceTable) -> bool:
    """Whether the captions of a version can be searched by their words."""
    return any(index.name == WORDS for index in table.list_indices())


def row_filter(category: str | None = None, domain: str | None = None) -> str | None:
    """The predicate of rows of a category, and from a domain or below it (of the page, else of the image's address).

    None for all rows. Both come from strangers: what is no domain is refused with a QueryError, quotes are doubled.
    """
    parts = []
    for name, value in (("category", category), ("domain", domain)):
        if value is not None and not isinstance(value, str):
            raise QueryError(f"{name} = {value!r}: give one name, or None for all.")
    if category is not None:
        parts.append(f"category = '{category.replace(chr(39), chr(39) * 2)}'")
    if domain is not None:
        if not _DOMAIN.fullmatch(domain.lower()):
            raise QueryError(f"{domain[:80]!r} is not a domain: write it as in example.org.")
        name = domain.lower().replace(".", "[.]")
        pattern = f"^(?i)https?://([^/?#@]*@)?([^/?#:@]*[.])?{name}(:[0-9]*)?([/?#]|$)"
        parts.append(f"regexp_like(coalesce(source_url, url), '{pattern}')")
    return " AND ".join(parts) or None


@contextmanager
def reading(lance_uri: str, version: int) -> Iterator[None]:
    """Turn what Lance says when rows of an opened release cannot be read into errors of ours.

    Raises NotBuiltError when the release was cleaned away meanwhile, StorageError when the storage refuses.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, LatentAssetsError):
            raise
        if is_absent(error) and not _is_there(lance_uri, version):
            raise NotBuiltError(
                f"The release that was opened (version {version} of {table_uri(lance_uri)}) is gone: newer ones were "
                "published, and it was cleaned away. Open the atlas again."
            ) from error
        if (fault := shortage(error, wrapped=True)) is not None:
            raise fault from error
        raise StorageError(
            f"{table_uri(lance_uri)} cannot be read ({brief(error)}). Check the storage and the credentials; "
            "`latent-assets verify` says what is damaged."
        ) from error


def _is_there(lance_uri: str, version: int) -> bool:
    try:
        open_table(lance_uri, version)
    except NotBuiltError:
        return False
    except StorageError:
        return True
    return True


class OvertakenError(DataError):
    """Another process made a version of the table meanwhile, of which this one's next step knows nothing."""

    @classmethod
    def of(cls, lance_uri: str) -> OvertakenError:
        """The error, for the table of a LanceDB directory."""
        return cls(
            f"Another process stages a version of {table_uri(lance_uri)}, too: nothing of this one is published. Wait "
            "for it, then build again."
        )


@contextmanager
def writing(lance_uri: str) -> Iterator[None]:
    """Turn Lance's refusals to write into errors of ours with the remedy.

    Raises StorageError when the storage refuses, OvertakenError when another process wrote to the table meanwhile.
    """
    try:
        yield
    except Exception as error:
        if _OVERTAKEN in str(error):
            raise OvertakenError.of(lance_uri) from error
        if not isinstance(error, OSError | RuntimeError):
            raise
        if (fault := shortage(error, wrapped=True)) is not None:
            raise fault from error
        raise StorageError(
            f"{table_uri(lance_uri)} cannot be written ({brief(error)}). Make room or make it writable, then build "
            "again; the release before is untouched."
        ) from error


def flush_table(lance_uri: str, table: str = ATLAS_TABLE) -> None:
    """Have all that Lance wrote of a table on the disk: it leaves that to the system, and a power cut takes it."""
    Storage(lance_uri).flush([table_folder(table)])


def brief(error: BaseException) -> str:
    """What Lance says went wrong, without its own prefixes and the places in its code."""
    text = str(error).splitlines()[0].split("<?xml")[0] if str(error) else type(error).__name__
    text = re.sub(r"^(lance error: |External error: |LanceError\(IO\): )+", "", text)
    return re.sub(r",? /\S+\.rs:\d+(:\d+)?", "", text)[:300]


def tags(lance_uri: str) -> dict[str, int]:
    """The tags of the table and the versions they name."""
    return {name: int(tag["version"]) for name, tag in open_table(lance_uri, None).tags.list().items()}
