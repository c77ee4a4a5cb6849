"""The files of a source, wherever they are: found, identified without reading them, brought here one at a time.

Paths are local, s3://, hf:// or https://, and may be a file, a directory or a glob; a path that exists is never a glob.
What is in the files is the business of `lists`, `columns` (metadata), `folder` and `webdataset`.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from latent_assets.catalog.local_files import HIDDEN, below, split_pattern, walk
from latent_assets.catalog.names import whole
from latent_assets.errors import SourceError
from latent_assets.layout import OWNER
from latent_assets.storage import filesystem_options, fingerprint

if TYPE_CHECKING:
    import fsspec

    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

METADATA_SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz"),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"),
    "txt": (".txt", ".txt.gz"),
}
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".gif", ".bmp",
    ".dib", ".avif", ".avifs", ".tif", ".tiff",
)  # fmt: skip
_IDENTITY = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified")
_PACKED_TARS = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tbz2", ".txz")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceFile:
    """One file: its full path or URI, its name below the source, bytes (-1 if unknown) and a mark of its content."""

    path: str
    name: str
    bytes: int
    mark: str


@dataclass(frozen=True)
class Listing:
    """The files of a source, sorted by name, and what else is there.

    `unreadable` says of directories (names below the source) why they could not be read: what is in them is not
    known. `left_out` counts by reason what is no file that could be read, `roots` are directories of atlases, `unused`
    names of files that are none of the source's kind (in a folder, which may hold anything, its reader tells them).
    """

    files: list[SourceFile]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    roots: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


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
    listing = list_source(profile, storage)
    facts = [(file.name, file.bytes, file.mark) for file in listing.files]
    version = fingerprint(profile.source.kind, facts, *([sorted(listing.unreadable)] if listing.unreadable else []))
    return SourceVersion(version, len(facts), sum(max(0, size) for _, size, _ in facts), profile.source.path or "")


def list_files(profile: Profile, storage: Storage) -> list[SourceFile]:
    """The files the profile's source consists of, sorted by name. Raises SourceError when there are none."""
    return list_source(profile, storage).files


def list_source(profile: Profile, storage: Storage) -> Listing:
    """The files of the profile's source, and what else is there. Raises SourceError when there are no files."""
    source = profile.source
    if source.builtin is not None:
        from latent_assets.catalog.builtin import prepare

        return Listing([_single(prepare(profile, storage))])
    path = source.path or ""
    found = _remote_listing(path, _suffixes(profile), storage) if "://" in path else _local_listing(path, storage)
    files = found.files if source.kind == "folder" else _of_kind(profile, found)
    if not files:
        raise SourceError(_nothing(profile, found))
    used = {file.name for file in files}
    unused = tuple(file.name for file in found.files if file.name not in used)
    return replace(found, files=sorted(files, key=lambda file: file.name), unused=unused)


@contextmanager
def local_copy(file: SourceFile) -> Iterator[Path]:
    """A local path of a source file: itself, or a temporary download."""
    if "://" not in file.path:
        yield Path(file.path)
        return
    filesystem, inner = _filesystem(file.path)
    with tempfile.TemporaryDirectory(prefix="latent-assets-source-") as folder:
        target = Path(folder) / (file.name.replace("/", "_")[-120:] or "source")
        try:
            filesystem.get_file(inner, str(target))
        except Exception as error:
            raise SourceError(f"{file.path} could not be read: {type(error).__name__}: {error}.") from error
        yield target
        shutil.rmtree(folder, ignore_errors=True)


def base_path(profile: Profile) -> str:
    """What the names of the source's files, and the catalog's `path`, are relative to."""
    path = profile.source.path or ""
    if "://" in path:
        filesystem, inner = _filesystem(path)
        return _remote(path) + _remote_base(filesystem, path, inner, _suffixes(profile))
    base, pattern = split_pattern(path)
    return base if pattern or Path(base).is_dir() else str(Path(base).parent)


@contextmanager
def open_source(file: SourceFile) -> Iterator[IO[bytes]]:
    """A seekable reader of a source file; range requests when it is remote."""
    if "://" not in file.path:
        with open_regular(file.path) as local:
            yield local
        return
    filesystem, inner = _filesystem(file.path)
    with filesystem.open(inner, "rb") as remote:
        yield remote


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file at `offset`; the whole file for size -1. Raises FileNotFoundError and OSError."""
    if "://" not in path:
        with open_regular(path) as file:
            file.seek(offset)
            return file.read(size)
    filesystem, inner = _filesystem(path)
    return bytes(filesystem.cat_file(inner, start=offset, end=None if size < 0 else offset + size))


def open_regular(path: str) -> IO[bytes]:
    """A local file, opened for reading. Raises OSError for what is none: a pipe would be waited for, for ever."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(f"{whole(path)} is a directory, pipe, socket or device")
    # if it has become a pipe since, that is seen when it is open
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f"{whole(path)} is no file any more")
    return os.fdopen(file, "rb")


def _filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    import fsspec

    try:
        filesystem, inner = fsspec.core.url_to_fs(path, **filesystem_options(path))
    except (ImportError, ValueError) as error:
        raise SourceError(
            f"`source.path` = {path}: {error}. Write a local path or one of s3://, hf:// and https://."
        ) from error
    return filesystem, str(inner)


def _suffixes(profile: Profile) -> tuple[str, ...]:
    source = profile.source
    if source.kind == "webdataset":
        return (".tar",)
    if source.kind == "folder":
        return IMAGE_SUFFIXES
    if source.format != "auto":
        return METADATA_SUFFIXES[source.format]
    return tuple(suffix for group in METADATA_SUFFIXES.values() for suffix in group)


def _of_kind(profile: Profile, found: Listing) -> list[SourceFile]:
    """The lists, or the tars, among files."""
    suffixes = _suffixes(profile)
    if profile.source.kind == "webdataset":
        _refuse_compressed_tars(found.files)
        return [file for file in found.files if file.name.lower().endswith(suffixes)]
    if len(found.files) == 1:
        return found.files
    lists = [file for file in found.files if file.name.lower().endswith(suffixes)]
    if profile.source.format == "auto":
        # beside tables a .txt is a licence or a read-me
        tables = [file for file in lists if not file.name.lower().endswith(METADATA_SUFFIXES["txt"])]
        return tables or lists
    return lists


def _local_listing(path: str, storage: Storage) -> Listing:
    base, pattern = split_pattern(path)
    folder, root = Path(base), Path(storage.root) if storage.is_local else None
    try:
        if not folder.is_dir():
            return Listing([_single(folder)] if folder.is_file() and not pattern else [])
        if root is not None and root.exists() and root.samefile(folder):
            raise SourceError(
                f"`source.path` = {path} is the root of the atlas itself: give the root a directory of its own."
            )
        found = walk(base, pattern, str(root) if root else None)
    except (FileNotFoundError, NotADirectoryError):
        return Listing([])
    except PermissionError as error:
        raise SourceError(f"`source.path` = {path} cannot be read: {error}. Check rights and credentials.") from error
    except OSError as error:
        raise SourceError(f"`source.path` = {path} cannot be listed: {type(error).__name__}: {error}.") from error
    files = [SourceFile(file.path, file.name, file.bytes, str(file.modified)) for file in found.files]
    return Listing(files, found.unreadable, found.left_out, tuple(found.roots))


def _single(path: Path) -> SourceFile:
    facts = path.stat()
    return SourceFile(str(path), path.name, facts.st_size, str(facts.st_mtime))


def _remote(path: str) -> str:
    """What stands before the paths that a filesystem gives: `s3://`; those of http are whole."""
    scheme = path.partition("://")[0]
    return "" if scheme in ("http", "https") else f"{scheme}://"


def _is_pattern(filesystem: fsspec.AbstractFileSystem, path: str, inner: str) -> bool:
    if path.startswith(("http://", "https://")) or not _GLOB.search(inner):
        return False
    return not filesystem.exists(inner)


def _is_single(filesystem: fsspec.AbstractFileSystem, inner: str, suffixes: tuple[str, ...]) -> bool:
    return inner.lower().endswith(suffixes) or bool(filesystem.isfile(inner))


def _remote_base(filesystem: fsspec.AbstractFileSystem, path: str, inner: str, suffixes: tuple[str, ...]) -> str:
    if _is_pattern(filesystem, path, inner):
        return inner[: _GLOB.search(inner).start()].rpartition("/")[0]  # type: ignore[union-attr]
    return inner.rpartition("/")[0] if _is_single(filesystem, inner, suffixes) else inner.rstrip("/")


def _remote_listing(path: str, suffixes: tuple[str, ...], storage: Storage) -> Listing:
    filesystem, inner = _filesystem(path)
    try:
        base = _remote_base(filesystem, path, inner, suffixes)
        if _is_pattern(filesystem, path, inner):
            entries = filesystem.glob(inner, detail=True)
        elif _is_single(filesystem, inner, suffixes):
            entries = {inner: filesystem.info(inner)}
        else:
            entries = filesystem.find(inner, detail=True)
    except FileNotFoundError:
        return Listing([])
    except PermissionError as error:
        raise SourceError(f"`source.path` = {path} cannot be read: {error}. Check rights and credentials.") from error
    except Exception as error:
        raise SourceError(f"`source.path` = {path} cannot be listed: {type(error).__name__}: {error}.") from error
    names = {
        name: name.removeprefix(base).lstrip("/") or name
        for name, info in entries.items()
        if info.get("type", "file") != "directory"
    }
    roots = {inside.rpartition("/")[0] for inside in names.values() if inside.endswith(f"/{OWNER}")}
    own = storage.root.removeprefix(_remote(path)) if "://" in storage.root else None
    if own is not None and own.startswith(f"{base}/"):
        roots.add(own.removeprefix(f"{base}/"))
    files, left_out = [], Counter[str]()
    for name, inside in names.items():
        if any(part.startswith(".") for part in inside.split("/")):
            left_out[HIDDEN] += 1
        elif not roots or not below(inside, roots):
            files.append(_source_file(_remote(path) + name, inside, entries[name]))
    return Listing(files, left_out=left_out, roots=tuple(sorted(roots)))


def _source_file(path: str, name: str, info: dict[str, Any]) -> SourceFile:
    mark = next((str(info[key]) for key in _IDENTITY if info.get(key)), "")
    size = info.get("size")
    return SourceFile(path, name, -1 if size is None else int(size), mark)


def _nothing(profile: Profile, found: Listing) -> str:
    source = profile.source
    path = source.path or ""
    if "://" not in path and Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        return f"`source.path` = {path} is a pipe, socket or device: write its content to a file."
    wanted = "an image suffix" if source.kind == "folder" else ", ".join(_suffixes(profile))
    besides = [f"{count} {reason}" for reason, count in found.left_out.items()]
    besides += [f"an atlas in {name}" for name in found.roots[:3]]
    left_out = f" Left out: {', '.join(besides)}." if besides else ""
    return (
        f"There is nothing at `source.path` = {path} that ends in {wanted}: correct the path (a file, a directory or "
        f"a glob), or `source.kind`.{left_out}"
    )


def _refuse_compressed_tars(files: list[SourceFile]) -> None:
    packed = [file.name for file in files if file.name.lower().endswith(_PACKED_TARS)]
    if packed:
        raise SourceError(
            f"{packed[0]} is a compressed tar, whose members cannot be reached directly: unpack it to a plain .tar "
            f"({len(packed)} of them below `source.path`)."
        )
