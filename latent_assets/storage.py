"""Where bytes are: a root that is a local directory or s3://, atomic and conditional writes.

Rooms ask for relative names ("images/00003.tar"); how bytes get there, and that no reader ever sees half
of them, is decided here. What the bytes mean is not.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from latent_assets.errors import LatentAssetsError, StorageError
from latent_assets.layout import LANCE
from latent_assets.limits import shortage

if TYPE_CHECKING:
    import fsspec
    import polars as pl

_PARTIAL = ".partial-"
_LARGE = 1 << 20  # bytes; smaller files are read again soon
_PLAIN = re.compile(r"[A-Za-z0-9_/.@+=,: -]+")  # paths that are neither patterns nor cut by what reads URLs
_FOREIGN_FOR = 7 * 24 * 3600  # seconds


def filesystem_options(address: str) -> dict[str, Any]:
    """What fsspec is given for an address. It keeps one filesystem for each set of options as long as a process lives.

    Listings are not kept, other processes write too; another S3 endpoint in the environment is another filesystem.
    """
    options: dict[str, Any] = {"use_listings_cache": False}
    if address.startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options |= {"endpoint_url": endpoint} if endpoint else {}
    return options


@dataclass(frozen=True)
class StoredFile:
    """A file: its name below the root, its bytes, when it was changed last (seconds since 1970)."""

    name: str
    size: int
    modified: float


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
        return self.uri(LANCE)

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        import fsspec

        return fsspec.filesystem(self.root.partition("://")[0], **filesystem_options(self.root))

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

    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """Bytes of stored files by name; None for one that is not there. From S3, folders are listed once each."""
        if self.is_local:
            return {name: _local_size(self.uri(name)) for name in names}
        wanted = sorted(set(names))
        found: dict[str, int | None] = {}
        for folder, inside in groupby(wanted, key=lambda name: name.rpartition("/")[0]):
            with explained(self, folder):
                try:
                    listed = {
                        item["name"].rsplit("/", 1)[-1]: item for item in self._fs.ls(self.uri(folder), detail=True)
                    }
                except FileNotFoundError:
                    listed = {}
            for name in inside:
                item = listed.get(name.rsplit("/", 1)[-1])
                found[name] = int(item["size"]) if item and item["type"] == "file" else None
        return found

    def list(self, folder: str, suffix: str = "") -> Sequence[str]:
        """Names of the files directly in `folder` that end in `suffix`, sorted; [] when there is no folder."""
        names = (name for name, is_file in self._entries(folder) if is_file)
        return sorted(name for name in names if name and name.endswith(suffix) and _PARTIAL not in name)

    def folders(self, folder: str) -> Sequence[str]:
        """Names of the folders directly in `folder`, sorted; [] when there is no folder."""
        return sorted(name for name, is_file in self._entries(folder) if not is_file)

    def files(self, folder: str) -> Iterator[StoredFile]:
        """The files in `folder` and in the folders below it; none when there is no folder.

        Links are not followed. What is being written by this package, and names that begin with a dot, are left out.
        """
        with explained(self, folder):
            if self.is_local:
                yield from _walk(Path(self.uri(folder)), folder)
                return
            base = self.uri(folder).partition("://")[2].rstrip("/")
            try:
                found = self._fs.find(self.uri(folder), detail=True)
            except FileNotFoundError:
                return
            for path, item in found.items():
                inside = path[len(base) + 1 :]
                if inside and not any(part.startswith(".") for part in inside.split("/")):
                    yield StoredFile(f"{folder}/{inside}", int(item["size"]), _modified(item))

    def stored_file(self, name: str) -> StoredFile | None:
        """A file as `files` gives it; None when it is not there."""
        with explained(self, name):
            try:
                if self.is_local:
                    found = os.lstat(self.uri(name))
                    return StoredFile(name, found.st_size, found.st_mtime)
                self._fs.invalidate_cache()
                item = self._fs.info(self.uri(name))
            except (FileNotFoundError, NotADirectoryError):
                return None
            return StoredFile(name, int(item["size"]), _modified(item))

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
                temporary = target.with_name(_partial_name(target.name))
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

    def create(self, name: str, data: bytes) -> bool:
        """Store `data` as `name` unless something is there already; whether it was stored.

        Of several that try at the same moment, on any hosts, one succeeds: a hard link on disk, a conditional put
        (If-None-Match) on S3.
        """
        with explained(self, name, reading=False):
            try:
                if self.is_local:
                    target = Path(self.uri(name))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    temporary = target.with_name(_partial_name(target.name))
                    try:
                        temporary.write_bytes(data)
                        os.link(temporary, target)
                    finally:
                        temporary.unlink(missing_ok=True)
                else:
                    self._fs.pipe_file(self.uri(name), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if _precondition_failed(error):
                    return False
                raise
            return True

    def write_bytes(self, name: str, data: bytes) -> None:
        """Store `data` as `name`, atomically."""
        with self.writing(name) as path:
            path.write_bytes(data)

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def write_parquet(self, name: str, frame: pl.DataFrame, **options: Any) -> None:
        with self.writing(name) as path:
            frame.write_parquet(path, **options)

    def flush(self, names: Iterable[str]) -> None:
        """Have files, and the folders that hold them up to the root, on the disk: a power cut takes none of them.

        A name of a folder stands for all that is in it. Nothing is to be done on S3, nor for what has gone.
        """
        if not self.is_local:
            return
        folders: dict[Path, None] = {}
        for name in names:
            with explained(self, name, reading=False):
                path = Path(self.uri(name))
                for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
                    if file.is_dir():
                        folders[file] = None
                    else:
                        _flush(file)
                folders |= dict.fromkeys(parent for parent in path.parents if parent.is_relative_to(self.root))
        if folders:
            folders[Path(self.root).parent] = None  # the root may be new
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with explained(self, str(folder), reading=False):
                _flush(folder)

    def move(self, name: str, to: str) -> None:
        """Give a file another name, replacing what has it; nothing happens when it has gone."""
        with explained(self, name, reading=False), suppress(FileNotFoundError):
            if self.is_local:
                Path(self.uri(to)).parent.mkdir(parents=True, exist_ok=True)
                Path(self.uri(name)).replace(self.uri(to))
            else:
                self._fs.mv(self.uri(name), self.uri(to))

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
        probe = _partial_name("probe")
        self.write_bytes(probe, b"latent-assets")
        self.delete(probe)

    def sweep(self) -> int:
        """Remove temporary files that killed processes of this host left behind; return how many. Local roots only.

        Those of other hosts, whose processes cannot be seen from here, go after a week.
        """
        removed = 0
        if self.is_local and Path(self.root).is_dir():
            for path in Path(self.root).rglob(f"{_PARTIAL}*"):
                host, _, rest = path.name.removeprefix(_PARTIAL).partition("+")
                process = rest.partition("+")[0]
                if host == host_name() and process.isdigit():
                    gone = not process_lives(int(process))
                else:
                    with suppress(FileNotFoundError):
                        gone = time.time() - path.stat().st_mtime > _FOREIGN_FOR
                if gone:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


def _flush(path: Path) -> None:
    """Have a file or a folder on the disk. A folder that cannot be opened for that (not all systems let one) stays."""
    try:
        file = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):  # gone, or a folder of somebody else
        return
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.EBADF):  # nothing to be flushed there
            raise
    finally:
        os.close(file)


def _modified(item: dict[str, Any]) -> float:
    modified = item.get("LastModified")
    return float(modified.timestamp()) if modified else 0.0


def _walk(folder: Path, name: str) -> Iterator[StoredFile]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        with suppress(FileNotFoundError):  # gone since it was listed
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{name}/{entry.name}")
            elif entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                yield StoredFile(f"{name}/{entry.name}", found.st_size, found.st_mtime)


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


def _local_size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _precondition_failed(error: BaseException) -> bool:
    """Whether a store refused a conditional put; not every store says which condition, as s3fs expects it."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict", "412")


def plain_path(folder: Path) -> Path:
    """A path of a directory that is the same whoever reads it: itself, or a link to it that is made here.

    For libraries that take a path for a pattern or for a URL (Dagster's settings, LanceDB): with `[`, `?` or `%` in it
    they would look, and write, elsewhere. Raises OSError where no link can be made.
    """
    real = folder.absolute()
    if _PLAIN.fullmatch(str(real)):
        return real
    problem: OSError | None = None
    for base in _link_folders():
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            if base.is_symlink() or base.stat().st_uid != os.getuid():
                continue  # another user's, in a directory that all may write
            link = base / fingerprint(str(real))[:16]
            if not (link.is_symlink() and link.readlink() == real):
                new = base / f"{link.name}.{os.getpid()}"
                new.unlink(missing_ok=True)
                new.symlink_to(real)
                new.replace(link)
            return link
        except OSError as error:
            problem = error
    raise problem or OSError(f"no directory for a link to {real}")


def _link_folders() -> Iterator[Path]:
    """Directories of this user that may hold links, the one that lasts first."""
    state = os.environ.get("XDG_STATE_HOME")
    lasting = (Path(state) if state else Path.home() / ".local" / "state") / "latent-assets"
    for found in (lasting, Path(tempfile.gettempdir()) / f"latent-assets-{os.getuid()}"):
        if _PLAIN.fullmatch(str(found.absolute())):
            yield found.absolute()


def host_name() -> str:
    """This machine's name as a part of file names: letters, digits, `-` and `_`."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())


def _partial_name(name: str) -> str:
    """A temporary name beside `name` that says which process of which host writes it."""
    return f"{_PARTIAL}{host_name()}+{os.getpid()}+{time.monotonic_ns()}-{name}"


def process_lives(process: int) -> bool:
    """Whether a process of this machine with that id exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def explained(storage: Storage, name: str, reading: bool = True) -> Iterator[None]:
    """Turn the operating system's refusals into errors that name the path and the remedy."""
    try:
        yield
    except LatentAssetsError:
        raise
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
        # Polars wraps the system's error: only its text is left
        if (fault := shortage(error, connecting=not storage.is_local, wrapped=True)) is not None:
            raise fault from error
        if type(error).__module__.startswith(("botocore", "aiobotocore")):
            raise StorageError(
                f"{storage.uri(name)} cannot be reached: {error}. Check the AWS environment (AWS_ENDPOINT_URL, "
                "credentials, region) and the bucket's name in the profile's `root`."
            ) from error
        if getattr(error, "errno", None) == errno.ENOSPC or "(os error 28)" in str(error):
            raise StorageError(
                f"{storage.root} is full: {name} could not be written. Free space or set another `root` in the "
                "profile, then build again; what is finished is kept."
            ) from error
        if getattr(error, "errno", None) == errno.EROFS or "(os error 30)" in str(error):
            raise StorageError(f"{storage.root} is read-only: set another `root` in the profile.") from error
        raise
