"""Text that comes from outside, whatever wrote it: what encoding it is in, and a refusal that names it.

UTF-8 with and without a byte-order mark is read, UTF-16 and UTF-32 by their mark, any other encoding where it is
declared: by who sent the text (`charset`), or in a comment of the first two lines (`# coding: latin-1`, PEP 263).
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from latent_assets.errors import LatentAssetsError, SourceError

MARK = "\ufeff"
# that of UTF-16 is the beginning of that of UTF-32
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"(?:[^\r\n]*\r?\n)?[ \t\f]*#[^\r\n]*?coding[:=][ \t]*([-_.a-zA-Z0-9]+)")
_ASCII = b"a+AGE-\\x41~"  # encodings of texts agree about it, and utf-7 and the like do not
_HEAD = 4096


def decode_text(
    data: bytes, name: str, charset: str | None = None, error: type[LatentAssetsError] = SourceError
) -> str:
    """The text in `data`, which is that of `name`, without byte-order marks at its start.

    Raises `error`, with the name and the remedy, for bytes that are not in the encoding that they declare or, where
    they declare none, in UTF-8, and for UTF-16 without a mark.
    """
    encoding = _encoding(data, charset)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        raise error(
            f"{name} is not text in {encoding.upper()} ({problem.reason} at byte {problem.start}): save it as UTF-8, "
            "or as UTF-16 with a byte-order mark."
        ) from problem
    if "\0" in text:
        raise error(_zero_bytes(name))
    return text.lstrip(MARK)


def decode_leniently(data: bytes, charset: str | None = None) -> str:
    """As much of the text in `data` as can be read, for texts that nobody here can correct. Never fails.

    Byte-order marks are left out wherever they stand, and so are zero bytes: of UTF-16 without a mark, ASCII remains.
    Other bytes that are no text stand percent-encoded, as they do in URLs.
    """
    return data.decode(_encoding(data, charset), _PERCENT).replace(MARK, "").replace("\0", "")


def _percent_encoded(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


_PERCENT = "latent_assets.percent"
codecs.register_error(_PERCENT, _percent_encoded)


@contextmanager
def utf8_file(path: Path, name: str) -> Iterator[Path]:
    """A path of a text in UTF-8 without a mark: `path` itself, or a temporary copy when it says it is something else.

    For files of any size, also gzipped ones; `name` is for errors. Only the beginning of a file that says nothing is
    looked at. In a copy, the line of a comment that declares an encoding is empty. Raises SourceError for UTF-16
    without a mark and for text that is not what it says.
    """
    with open_text(path) as file:
        head = file.read(_HEAD)
    marked, comment = _marked(head), _DECLARED.match(head)
    declared = comment[1].decode("ascii") if comment and not marked else ""
    encoding = marked or (declared if declared and _is_of_texts(declared) else "")
    if not encoding:
        if b"\0" in head:
            raise SourceError(_zero_bytes(name))
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="latent-assets-text-") as folder:
        copy = Path(folder) / path.name.removesuffix(".gz")
        try:
            with (
                open_text(path) as file,
                io.TextIOWrapper(file, encoding=encoding, newline="") as text,
                copy.open("w", encoding="utf-8", newline="") as target,
            ):
                start = text.read(_HEAD).lstrip(MARK)
                target.write(start if marked else _without_declaration(start))
                shutil.copyfileobj(text, target, 1 << 20)
        except UnicodeError as problem:
            says = "its byte-order mark says" if marked else "it declares"
            raise SourceError(f"{name} is not the text {says} ({problem}): save it as UTF-8.") from problem
        yield copy


def open_text(path: Path) -> BinaryIO:
    """The bytes of a text; those of a gzipped one unpacked."""
    file = path.open("rb")
    if file.peek(2)[:2] != b"\x1f\x8b":
        return file
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


def _without_declaration(text: str) -> str:
    """With the declaring line empty: the number of the lines behind it stays."""
    return re.sub(r"\A((?:[^\r\n]*\r?\n)?)[ \t\f]*#[^\r\n]*?coding[:=][^\r\n]*", r"\1", text)


def _encoding(data: bytes, charset: str | None) -> str:
    """The encoding that a text declares, by a mark, in a comment or beside it (`charset`), else UTF-8."""
    if marked := _marked(data):
        return marked
    comment = _DECLARED.match(data[:_HEAD])
    for declared in (comment[1].decode("ascii") if comment else None, charset):
        if declared and _is_of_texts(declared):
            return declared
    return "utf-8"


def _marked(data: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def _is_of_texts(encoding: str) -> bool:
    try:
        return (
            codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")) or _ASCII.decode(encoding) == _ASCII.decode()
        )
    except (LookupError, ValueError):
        return False


def _zero_bytes(name: str) -> str:
    return f"{name} has zero bytes: it is no text, or UTF-16 without a byte-order mark. Save it as UTF-8."
