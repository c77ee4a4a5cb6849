"""Tars of images (WebDataset layout, as img2dataset writes them) as a source: each image member a row.

The members of a key (`key.jpg`, `key.txt`, `key.json`) need not stand together; which are of a key says `sidecars`.

A row's `path` says where its image lies in which tar; reading it is the business of `fetch`.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import polars as pl

from latent_assets.catalog.local_files import BROKEN_LINK, HIDDEN, NO_FILE
from latent_assets.catalog.names import path_of_name, whole
from latent_assets.catalog.sidecars import (
    LONGEST_SIDECAR,
    SIDECARS,
    Sidecars,
    catalog_frame,
    described,
    file_hash,
    is_image,
    key_of,
)
from latent_assets.catalog.source import SourceFile, open_source
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.catalog.findings import Findings
    from latent_assets.profile import Source

SPARSE = "sparse_member"
REPLACED = "replaced_by_a_later_member_of_its_name"

_MEMBER = re.compile(r"(?P<tar>.*)::(?P<name>.*)::(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
_BATCH = 10_000


@dataclass(frozen=True)
class Member:
    """A file inside a tar: offset and size of its content in bytes."""

    tar: str
    name: str
    offset: int
    size: int

    def path(self) -> str:
        """As it stands in the catalog's `path`."""
        return f"{self.tar}::{self.name}::{self.offset}+{self.size}"


def parse_member(path: str) -> Member | None:
    """The member a catalog `path` means, or None when it is a plain file."""
    match = _MEMBER.fullmatch(path)
    return match and Member(match["tar"], match["name"], int(match["offset"]), int(match["size"]))


def webdataset_rows(source: Source, files: list[SourceFile], findings: Findings) -> Iterator[pl.DataFrame]:
    """One row per image in the tars `files`, in batches of CATALOG_SCHEMA. Raises SourceError for a broken tar.

    What is neither an image nor describes one is told to `findings`.
    """
    for file in files:
        rows: list[dict[str, Any]] = []
        with _reading(file) as (stream, seen):
            for row in _TarReader(source, file, stream, findings).rows(seen):
                rows.append(row)
                if len(rows) == _BATCH:
                    yield catalog_frame(rows)
                    rows = []
        if rows:
            yield catalog_frame(rows)


@contextmanager
def _reading(file: SourceFile) -> Iterator[tuple[IO[bytes], list[int]]]:
    """The bytes of a tar, and where the number of its members that were seen is put; errors name the tar."""
    seen = [0]
    try:
        with open_source(file) as stream:
            yield stream, seen
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(
            f"{whole(file.path)} is no whole tar ({seen[0]} whole files, then {whole(str(error))}): write it again or "
            "take it out of `source.path`."
        ) from error
    except OSError as error:
        raise SourceError(
            f"{whole(file.path)} cannot be read ({error.strerror or error}): check its rights."
        ) from error


class _TarReader:
    """Reads the headers of a tar first, then the sidecars: members of a key may stand anywhere.

    Sidecars of a remote tar are kept in a temporary file as they come by: going back for each would take a request.
    """

    def __init__(self, source: Source, file: SourceFile, stream: IO[bytes], findings: Findings) -> None:
        self._source, self._file, self._stream, self._findings = source, file, stream, findings
        self._place = whole(file.path)
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._names: dict[str, str] = {}  # as it is written, by its `_path`

    def rows(self, seen: list[int]) -> Iterator[dict[str, Any]]:
        """A row for each image, in the order of the tar. `seen[0]` counts the members."""
        with ExitStack() as stack:
            spool = stack.enter_context(tempfile.TemporaryFile()) if "://" in self._file.path else None
            spooled = self._index(seen, spool)
            self._follow_links()
            images = [name for name in self._members if is_image(name)]
            sidecars: Sidecars[str] = Sidecars(images)
            for name in self._members:
                if not is_image(name):
                    if key_of(name)[1] in SIDECARS:
                        sidecars.add(name, name)
                    else:
                        self._findings.not_an_image(name)
            for name in images:
                yield self._row(name, sidecars.of(name), spool, spooled)
            for name in sidecars.unused():
                self._findings.not_an_image(name)

    def _index(self, seen: list[int], spool: IO[bytes] | None) -> dict[tuple[int, int], int]:
        """Take all headers; where in `spool` the content of a sidecar is, by its place in the tar."""
        spooled: dict[tuple[int, int], int] = {}
        start: int | None = 0
        while start is not None:
            self._stream.seek(start)
            with tarfile.open(fileobj=cast(BinaryIO, self._stream), mode="r:") as tar:
                for info in tar:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
                    self._take(info)
                    seen[0] += 1
                    place = (info.offset_data, info.size)
                    if (
                        spool is not None
                        and info.isreg()
                        and key_of(info.name)[1] in SIDECARS
                        and info.size <= LONGEST_SIDECAR
                    ):
                        self._stream.seek(info.offset_data)
                        spooled[place] = spool.tell()
                        spool.write(self._stream.read(info.size))
                start = self._another(tar.offset)
        return spooled

    def _another(self, end: int) -> int | None:
        """Where behind the end of a tar another begins, as `cat a.tar b.tar` puts it there; None without one."""
        self._stream.seek(end)
        if self._stream.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
            raise tarfile.ReadError("a damaged header")
        while block := self._stream.read(tarfile.BLOCKSIZE):
            if block.strip(b"\0"):
                start = self._stream.tell() - len(block)
                try:
                    tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                except tarfile.HeaderError:
                    what = "tars have something behind their end that is no tar: it was left out"
                    self._findings.note(what, 1, f"{self._place}, at byte {start:,}")
                    return None
                return start
        return None

    def _take(self, info: tarfile.TarInfo) -> None:
        name = info.name
        if info.isdir():
            return
        if any(part.startswith(".") for part in posixpath.normpath(name).split("/") if part != ".."):
            self._findings.dropped[HIDDEN] += 1  # of macOS: `._photo.jpg` beside `photo.jpg`
        elif info.issym():
            self._links[self._names.setdefault(_path(name), name)] = posixpath.join(
                posixpath.dirname(name), info.linkname
            )
        elif info.islnk():
            self._links[self._names.setdefault(_path(name), name)] = info.linkname
        elif info.issparse():
            self._findings.dropped[SPARSE] += 1
            self._findings.note(f"members were left out: {SPARSE}", 1, f"{name} in {self._place}")
        elif info.isreg():
            if 0 <= self._file.bytes < info.offset_data + info.size:
                raise tarfile.ReadError(f"it ends within {name}")
            # `tar -r` puts a newer file of the same name behind; `./a.jpg` is that of `a.jpg`
            if (before := self._names.get(path := _path(name))) in self._members:
                self._findings.dropped[REPLACED] += 1
                self._findings.note(f"members were left out: {REPLACED}", 1, f"{before} in {self._place}")
                del self._members[before]
            self._links.pop(before or name, None)
            self._names[path] = name
            self._members[name] = (info.offset_data, info.size)
        else:
            self._findings.dropped[NO_FILE] += 1

    def _follow_links(self) -> None:
        """Give links the place of the member they lead to, over other links if need be."""
        by_path = {_path(name): place for name, place in self._members.items()}
        links = {_path(name): _path(target) for name, target in self._links.items()}
        for name in self._links:
            target, passed = _path(name), set[str]()
            while target in links and target not in passed:
                passed.add(target)
                target = links[target]
            if target in by_path:
                self._members[name] = by_path[target]
            else:
                self._findings.dropped[BROKEN_LINK] += 1
                self._findings.note("links in tars lead nowhere", 1, f"{name} in {self._place}")

    def _row(
        self, image: str, sidecars: dict[str, str], spool: IO[bytes] | None, spooled: dict[tuple[int, int], int]
    ) -> dict[str, Any]:
        name = f"{self._file.name}/{image}"
        found = {}
        for extension, sidecar in sidecars.items():
            offset, size = self._members[sidecar]
            if size > LONGEST_SIDECAR:
                what = f"sidecars of more than {LONGEST_SIDECAR:,} bytes were left out"
                self._findings.note(what, 1, f"{sidecar} in {self._place}")
                continue
            stream, start = (self._stream, offset) if spool is None else (spool, spooled[offset, size])
            stream.seek(start)
            found[extension] = stream.read(size)

        def named(extension: str) -> str:
            return f"{self._place}: {whole(sidecars.get(extension, ''))}"

        offset, size = self._members[image]
        return {
            "url": name,
            **described(self._source, found, named, self._findings),
            "name": name,
            "path": Member(path_of_name(self._file.name), whole(image), offset, size).path(),
            "source_hash": file_hash(self._file.bytes, self._file.mark),
        }


def _path(name: str) -> str:
    """The path at which a member is unpacked."""
    return posixpath.normpath(name).lstrip("/")
