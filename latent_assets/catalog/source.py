"""The files of a source, wherever they are: found, identified without reading them, brought here one at a time.

Paths are local, s3://, hf:// or https://, and may be a file, a directory or a glob. What is in the files is the
business of `columns` (metadata), `folder` and `webdataset`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from latent_assets.errors import SourceError
from latent_assets.processes import temporary_folder
from latent_assets.storage import filesystem, fingerprint

if TYPE_CHECKING:
    import fsspec

    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

METADATA_SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz"),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"),
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif", ".tif", ".tiff")
_IDENTITY = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified")


@dataclass(frozen=True)
class SourceFile:
    """One file: its full path or URI, its name below the source, bytes (-1 if unknown) and a mark of its content."""

    path: str
    name: str
    bytes: int
    mark: str


@dataclass(frozen=True)
class SourceVersion:
    """What a source is now. `version` changes when a file is added, removed or written."""

    version: str
    files: int
    bytes: int
    path: str


def observe_source(profile: Profile, storage: Storage) -> SourceVersion:
    """Identify the source by its files' names, sizes and marks (ETag or modification time), reading none of them.

    Raises SourceError when there is nothing at `source.path`.
    """
    if profile.source.builtin is not None:
        from latent_assets.catalog.builtin import prepare

        metadata = prepare(profile, storage)
        from latent_assets.openmoji.dataset import dataset_version

        version = fingerprint(profile.source.builtin, dataset_version(), profile.fetch.size, profile.source.origin)
        return SourceVersion(version, 1, metadata.stat().st_size, str(metadata))
    files = list_files(profile, storage)
    version = fingerprint(
        profile.source.kind, [(file.name, file.bytes, file.mark) for file in sorted(files, key=lambda f: f.name)]
    )
    return SourceVersion(version, len(files), sum(max(0, f.bytes) for f in files), profile.source.path or "")


def list_files(profile: Profile, storage: Storage) -> list[SourceFile]:
    """The files the profile's source consists of, sorted by name. Raises SourceError when there are none."""
    if profile.source.builtin is not None:
        from latent_assets.catalog.builtin import prepare

        path = str(prepare(profile, storage))
    else:
        path = profile.source.path or ""
    suffixes = _suffixes(profile)
    base, entries = _listing(path, suffixes)
    found = [_source_file(base, name, info) for name, info in entries.items() if not _hidden(name, base)]
    if profile.source.kind == "metadata" and len(found) > 1:
        found = [file for file in found if file.name.lower().endswith(suffixes)]
    elif profile.source.kind == "webdataset":
        _refuse_compressed_tars(found)
        found = [file for file in found if file.name.lower().endswith(suffixes)]
    if not found:
        raise SourceError(
            f"There is nothing at `source.path` = {path} that ends in {', '.join(suffixes) or 'an image suffix'}: "
            "correct the path (a file, a directory or a glob), or `source.kind`."
        )
    return sorted(found, key=lambda file: file.name)


@contextmanager
def local_copy(file: SourceFile) -> Iterator[Path]:
    """A local path of a source file: itself, or a temporary download."""
    if "://" not in file.path:
        yield Path(file.path)
        return
    filesystem, inner = _filesystem(file.path)
    with temporary_folder() as folder:
        target = folder / (file.name.replace("/", "_")[-120:] or "source")
        try:
            filesystem.get_file(inner, str(target))
        except Exception as error:
            raise SourceError(f"{file.path} could not be read: {type(error).__name__}: {error}.") from error
        yield target
        shutil.rmtree(folder, ignore_errors=True)


def base_path(profile: Profile) -> str:
    """What the names of the source's files, and the catalog's `path`, are relative to."""
    path = profile.source.path or ""
    base, _ = _listing(path, _suffixes(profile))
    remote = path.partition("://")[0] + "://" if "://" in path else ""
    return f"{remote}{base}"


@contextmanager
def open_source(file: SourceFile) -> Iterator[IO[bytes]]:
    """A seekable reader of a source file; range requests when it is remote."""
    if "://" not in file.path:
        with open(file.path, "rb") as local:
            yield local
        return
    filesystem, inner = _filesystem(file.path)
    with filesystem.open(inner, "rb") as remote:
        yield remote


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file at `offset`; the whole file for size -1. Raises FileNotFoundError and OSError."""
    if "://" not in path:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    store, inner = _filesystem(path)
    return bytes(store.cat_file(inner, start=offset, end=None if size < 0 else offset + size))


def _filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return filesystem(path)
    except (ImportError, ValueError) as error:
        raise SourceError(
            f"`source.path` = {path}: {error}. Write a local path or one of s3://, hf:// and https://."
        ) from error


def _suffixes(profile: Profile) -> tuple[str, ...]:
    source = profile.source
    if source.kind == "webdataset":
        return (".tar",)
    if source.kind == "folder":
        return ()
    if source.format != "auto":
        return METADATA_SUFFIXES[source.format]
    return tuple(suffix for group in METADATA_SUFFIXES.values() for suffix in group)


def _listing(path: str, suffixes: tuple[str, ...]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The base that names are relative to, and path -> facts of every file at `path`."""
    filesystem, inner = _filesystem(path)
    remote = path.partition("://")[0] + "://" if "://" in path else ""
    try:
        if any(character in inner for character in "*?[") and not path.startswith(("http://", "https://")):
            entries = filesystem.glob(inner, detail=True)
            base = inner[: min(inner.find(c) for c in "*?[" if c in inner)].rpartition("/")[0]
        elif (remote and inner.lower().endswith(suffixes or IMAGE_SUFFIXES)) or filesystem.isfile(inner):
            entries = {inner: filesystem.info(inner)}
            base = inner.rpartition("/")[0]
        else:
            entries = filesystem.find(inner, detail=True)
            base = inner.rstrip("/")
    except FileNotFoundError:
        entries, base = {}, inner
    except PermissionError as error:
        raise SourceError(f"`source.path` = {path} cannot be read: {error}. Check rights and credentials.") from error
    except Exception as error:
        if not remote and not isinstance(error, OSError):
            raise
        raise SourceError(f"`source.path` = {path} cannot be listed: {type(error).__name__}: {error}.") from error
    files = {name: info for name, info in entries.items() if info.get("type", "file") != "directory"}
    prefix = remote if remote not in ("http://", "https://") else ""
    return base, {f"{prefix}{name}": {**info, "base": f"{prefix}{base}"} for name, info in files.items()}


def _source_file(base: str, path: str, info: dict[str, Any]) -> SourceFile:
    mark = next((str(info[key]) for key in _IDENTITY if info.get(key)), "")
    size = info.get("size")
    name = path.removeprefix(str(info["base"])).lstrip("/") or path
    return SourceFile(path, name, -1 if size is None else int(size), mark)


def _hidden(path: str, base: str) -> bool:
    """Dot files and directories: thumbnails, trash, half-written downloads."""
    inner = path.partition("://")[2] or path
    return any(part.startswith(".") for part in inner.removeprefix(base).split("/") if part)


def _refuse_compressed_tars(files: list[SourceFile]) -> None:
    packed = [file.name for file in files if file.name.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz"))]
    if packed:
        raise SourceError(
            f"{packed[0]} is a compressed tar, whose members cannot be reached directly: unpack it to a plain .tar "
            f"({len(packed)} of them below `source.path`)."
        )
