"""An image out of a request's body (multipart), never more of it than is allowed, and not for ever."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.types import Message

from latent_assets.service.problems import ProblemError

_BESIDE = 64 * 1024  # bytes of a multipart body besides the image
_SECONDS = 30.0  # for the whole body
FIELD = "image"

# what OpenAPI says of such a request
REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {"type": "string", "format": "binary", "description": "a PNG, JPEG, WebP or AVIF file"}
                },
            },
            "encoding": {FIELD: {"contentType": "image/png, image/jpeg, image/webp, image/avif"}},
        }
    },
}


async def read_image(request: Request, most: int) -> bytes:
    """The bytes of the field `image`. Raises ProblemError for what is no such body, too large or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ProblemError(415, "Send the image as the field `image` of multipart/form-data.", {"Accept-Post": _KIND})
    length = request.headers.get("content-length")
    if length is not None and length.isdecimal() and int(length) > most + _BESIDE:
        raise _too_large(most)
    try:
        async with asyncio.timeout(_SECONDS):
            return await _read(request, most)
    except TimeoutError:
        raise ProblemError(408, f"The image did not arrive within {_SECONDS:.0f} seconds.") from None


async def _read(request: Request, most: int) -> bytes:
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > most + _BESIDE:
            raise _too_large(most)
        return message

    bounded_request = Request({**request.scope, "app": None}, bounded)
    try:
        async with bounded_request.form(max_files=1, max_fields=8, max_part_size=_BESIDE) as form:
            found = form.getlist(FIELD)
            if len(found) != 1 or not isinstance(found[0], UploadFile):
                raise ProblemError(422, "The field `image` has to be one file.")
            data = await found[0].read()
    except (ProblemError, TimeoutError):
        raise
    except Exception as error:  # the parser's own complaints, also those of what it is built on
        raise ProblemError(400, f"The body is no multipart/form-data that can be read ({error}).") from error
    if len(data) > most:
        raise _too_large(most)
    return data


_KIND = "multipart/form-data"


def _too_large(most: int) -> ProblemError:
    return ProblemError(413, f"The image has more than {most:,} bytes.", {"Connection": "close"})
