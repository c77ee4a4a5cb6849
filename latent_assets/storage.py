"""The one place that knows paths: a root that is a local directory or s3://, atomic writes, manifests.

Rooms ask for relative names ("images/00003.tar"); how bytes get there, and that no reader ever sees half
of them, is decided here. What the bytes mean is not.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from latent_assets.errors import StorageError

if TYPE_CHECKING:
    import fsspec
    import polars as pl

_PARTIAL = ".partial-"
_LARGE = 1 << 20  # bytes; smaller files are read again soon


@dataclass(frozen=True)
class Manifest:
    """What one stage made for one shard (or for the whole atlas): written last, it makes the artefact exist.

    `fingerprint` is the hash of everything that decided the content (what it was asked to be made from);
    `version` is the data version that downstream stages depend on (what came out).
    """

    stage: str
    key: str
    fingerprint: str
    version: str
    rows: int = 0
    seconds: float = 0.0
    created: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why the last attempt of a stage at a shard failed. Removed by the next success."""

    stage: str
    key: str
    error: str
    at: float


class Storage:
    """Reads and writes below one root.

    Local writes go to a temporary name in the target's directory, are flushed to disk and renamed; S3 objects
    become visible only when their upload is complete. Credentials for S3 come from the environment or the
    usual AWS chain (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, profiles, roles), never from a profile.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or "/"
        self.is_local = "://" not in self.root

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    # -- names ---------------------------------------------------------------------------------------

    def uri(self, name: str) -> str:
        """The full path or URI of a relative name."""
        return f"{self.root}/{name}"

    @property
    def lance_uri(self) -> str:
        """Where LanceDB keeps its tables."""
        return self.uri("lance")

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        import fsspec

        protocol = self.root.partition("://")[0]
        # listings are never cached: other processes write here too
        return fsspec.filesystem(protocol, use_listings_cache=False)

    # -- reading -------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        with explained(self, name):
            return self._exists(name)

    def _exists(self, name: str) -> bool:
        return Path(self.uri(name)).exists() if self.is_local else bool(self._fs.exists(self.uri(name)))

    def size(self, name: str) -> int:
        """Bytes of a stored file."""
        with explained(self, name):
            return Path(self.uri(name)).stat().st_size if self.is_local else int(self._fs.size(self.uri(name)))

    def list(self, folder: str, suffix: str = "") -> Sequence[str]:
        """Names of the files directly in `folder` that end in `suffix`, sorted; [] when there is no folder."""
        names = (name for name, is_file in self._entries(folder) if is_file)
        return sorted(name for name in names if name and name.endswith(suffix) and _PARTIAL not in name)

    def folders(self, folder: str) -> Sequence[str]:
        """Names of the folders directly in `folder`, sorted; [] when there is no folder."""
        return sorted(name for name, is_file in self._entries(folder) if not is_file)

    def _entries(self, folder: str) -> Sequence[tuple[str, bool]]:
        """(name, whether it is a file) of what is directly in `folder`."""
        with explained(self, folder):
            if self.is_local:
                path = Path(self.uri(folder))
                return [(entry.name, entry.is_file()) for entry in os.scandir(path)] if path.is_dir() else []
            try:
                found = self._fs.ls(self.uri(folder), detail=True)
            except FileNotFoundError:
                return []
            # a store may list an object that stands for the folder itself
            own = self.uri(folder).partition("://")[2].rstrip("/")
            items = [(item["name"].rstrip("/"), item["type"] == "file") for item in found]
            return [(name.rsplit("/", 1)[-1], is_file) for name, is_file in items if name != own]

    def read_bytes(self, name: str) -> bytes:
        with explained(self, name):
            return Path(self.uri(name)).read_bytes() if self.is_local else bytes(self._fs.cat_file(self.uri(name)))

    def open(self, name: str) -> BinaryIO:
        """A seekable binary reader; on S3 it makes range requests."""
        with explained(self, name):
            return cast(
                BinaryIO, Path(self.uri(name)).open("rb") if self.is_local else self._fs.open(self.uri(name), "rb")
            )

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A local path of a stored file: itself on disk, a temporary download from S3."""
        if self.is_local:
            yield Path(self.uri(name))
            return
        with tempfile.TemporaryDirectory(prefix="latent-assets-") as folder:
            target = Path(folder) / name.rsplit("/", 1)[-1]
            with explained(self, name):
                self._fs.get_file(self.uri(name), str(target))
            yield target

    def read_json(self, name: str) -> Any:
        return json.loads(self.read_bytes(name))

    def read_parquet(self, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        import polars as pl

        with self.open(name) as file:
            return pl.read_parquet(file, columns=list(columns) if columns is not None else None)

    # -- writing -------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a local path to write to; on leaving the block without an error it becomes `name`, atomically.

        On an error nothing is stored and the temporary file is removed. Raises StorageError when the root
        cannot be written or is full.
        """
        with explained(self, name, reading=False):
            if self.is_local:
                target = Path(self.uri(name))
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f"{_PARTIAL}{os.getpid()}-{time.monotonic_ns()}-{target.name}")
                try:
                    yield temporary
                    with temporary.open("rb") as file:
                        os.fsync(file.fileno())
                        if temporary.stat().st_size >= _LARGE:
                            release_cache(file.fileno())
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
            else:
                with tempfile.TemporaryDirectory(prefix="latent-assets-") as folder:
                    temporary = Path(folder) / name.rsplit("/", 1)[-1]
                    yield temporary
                    self._fs.put_file(str(temporary), self.uri(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Store `data` as `name`, atomically."""
        with self.writing(name) as path:
            path.write_bytes(data)

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def write_parquet(self, name: str, frame: pl.DataFrame, **options: Any) -> None:
        with self.writing(name) as path:
            frame.write_parquet(path, **options)

    def delete(self, name: str) -> None:
        """Remove a file or folder; nothing happens when it is not there."""
        if not self.exists(name):
            return
        path = self.uri(name)
        if not self.is_local:
            self._fs.rm(path, recursive=True)
        elif Path(path).is_dir():
            shutil.rmtree(path)
        else:
            Path(path).unlink()

    def check_writable(self) -> None:
        """Raise StorageError, with the remedy, when nothing can be stored below the root."""
        probe = f"{_PARTIAL}probe-{os.getpid()}"
        self.write_bytes(probe, b"latent-assets")
        self.delete(probe)

    def sweep(self) -> int:
        """Remove temporary files that killed processes left behind; return how many. Local roots only."""
        removed = 0
        if self.is_local and Path(self.root).is_dir():
            for path in Path(self.root).rglob(f"{_PARTIAL}*"):
                owner = path.name.removeprefix(_PARTIAL).split("-")[0]
                if owner.isdigit() and not process_lives(int(owner)):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    # -- manifests -----------------------------------------------------------------------------------

    def manifest(self, stage: str, key: str = "all") -> Manifest | None:
        """The manifest of a stage's shard, or None when it was never finished."""
        name = _manifest_name(stage, key)
        return Manifest(**self.read_json(name)) if self.exists(name) else None

    def manifests(self, stage: str) -> dict[str, Manifest]:
        """All manifests of a stage by shard key, sorted."""
        names = self.list(f"manifests/{stage}", ".json")
        keys = [name.removesuffix(".json") for name in names if not name.endswith(".failed.json")]
        return {key: Manifest(**value) for key, value in zip(keys, self._read_all(stage, keys), strict=True)}

    def _read_all(self, stage: str, keys: Sequence[str]) -> Sequence[Any]:
        """The manifests' JSON; from S3 many at a time."""
        paths = [_manifest_name(stage, key) for key in keys]
        if self.is_local or not paths:
            return [self.read_json(path) for path in paths]
        found = self._fs.cat([self.uri(path) for path in paths])
        by_name = {name.rsplit("/", 1)[-1]: json.loads(data) for name, data in found.items()}
        return [by_name[path.rsplit("/", 1)[-1]] for path in paths]

    def commit(self, manifest: Manifest) -> Manifest:
        """Write a manifest: from now on the artefact exists. Clears the failure noted for it."""
        stamped = Manifest(**{**asdict(manifest), "created": manifest.created or time.time()})
        self.write_json(_manifest_name(stamped.stage, stamped.key), asdict(stamped))
        self.forget_failure(stamped.stage, stamped.key)
        return stamped

    def forget_failure(self, stage: str, key: str) -> None:
        """Drop the note of a failed attempt."""
        self.delete(_failure_name(stage, key))

    def note_failure(self, stage: str, key: str, error: BaseException) -> Failure:
        """Keep why an attempt failed, for `status`; a root that cannot be written goes without."""
        failure = Failure(stage, key, f"{type(error).__name__}: {error}"[:2000], time.time())
        with suppress(StorageError):
            self.write_json(_failure_name(stage, key), asdict(failure))
        return failure

    def failures(self, stage: str) -> dict[str, Failure]:
        """The failures noted for a stage, by shard key."""
        names = self.list(f"manifests/{stage}", ".failed.json")
        return {
            name.removesuffix(".failed.json"): Failure(**self.read_json(f"manifests/{stage}/{name}")) for name in names
        }


def fingerprint(*parts: Any) -> str:
    """Hash of everything that decides an artefact's content: 32 hexadecimal characters.

    Parts are JSON values (nested dicts are sorted by key); their order matters.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def release_cache(file: int) -> None:
    """Let the system use the memory that holds what the disk has of an open file.

    Gigabytes are written here that nobody reads soon; new memory for each of their pages can take longer than the
    disk does, on virtual machines above all.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # advice, not a promise
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def process_lives(process: int) -> bool:
    """Whether a process of this machine with that id exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _manifest_name(stage: str, key: str) -> str:
    return f"manifests/{stage}/{key}.json"


def _failure_name(stage: str, key: str) -> str:
    return f"manifests/{stage}/{key}.failed.json"


@contextmanager
def explained(storage: Storage, name: str, reading: bool = True) -> Iterator[None]:
    """Turn the operating system's refusals into errors that name the path and the remedy."""
    try:
        yield
    except FileNotFoundError as error:
        if not reading:
            raise
        raise StorageError(f"{storage.uri(name)} is not there. Run `latent-assets status` to see what is.") from error
    except PermissionError as error:
        raise StorageError(
            f"{storage.uri(name)} cannot be accessed ({error.strerror or error}): make {storage.root} readable and "
            "writable for this user (for s3://, check the credentials), or set another `root` in the profile."
        ) from error
    except NotADirectoryError as error:
        raise StorageError(
            f"{storage.uri(name)} cannot be written: a part of that path is a file. Set another `root` in the profile."
        ) from error
    except Exception as error:
        if type(error).__module__.startswith(("botocore", "aiobotocore")):
            raise StorageError(
                f"{storage.uri(name)} cannot be reached: {error}. Check the AWS environment (AWS_ENDPOINT_URL, "
                "credentials, region) and the bucket's name in the profile's `root`."
            ) from error
        # Polars wraps the system's error: only its text is left
        if getattr(error, "errno", None) == errno.ENOSPC or "(os error 28)" in str(error):
            raise StorageError(
                f"{storage.root} is full: {name} could not be written. Free space or set another `root` in the "
                "profile, then build again; what is finished is kept."
            ) from error
        if getattr(error, "errno", None) == errno.EROFS or "(os error 30)" in str(error):
            raise StorageError(f"{storage.root} is read-only: set another `root` in the profile.") from error
        raise
