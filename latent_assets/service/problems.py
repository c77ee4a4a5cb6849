"""Errors as problem details (RFC 9457): one form for everything that goes wrong, and nothing of the inside in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from latent_assets.errors import LatentAssetsError, ModelError, NotBuiltError, QueryError, StorageError
from latent_assets.images.outcome import FetchError
from latent_assets.service.queues import OverloadedError

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("latent_assets.service")
_LONGEST = 1_000
GONE = 499  # nobody is told: the client has closed the connection


class InvalidValue(BaseModel):
    """What is wrong with one value of a request."""

    where: str = Field(examples=["query.k"])
    what: str = Field(examples=["Input should be less than or equal to 1000"])


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "The atlas demo (version 12) has no row 00000000000000000000000000000000.",
            }
        }
    )

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    errors: list[InvalidValue] | None = None

    @classmethod
    def of(cls, status: int, detail: str, errors: Sequence[InvalidValue] = ()) -> Problem:
        """The problem of an HTTP status."""
        title = "Client Closed Request" if status == GONE else HTTPStatus(status).phrase
        return cls(title=title, status=status, detail=detail[:_LONGEST], errors=list(errors) or None)


class ProblemError(Exception):
    """A request that is not answered, and what is answered instead."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, errors: Sequence[InvalidValue] = ()
) -> Response:
    """The answer that says what went wrong."""
    found = Problem.of(status, detail, errors)
    # halves of pairs, which a request may hold, are no UTF-8
    content = found.model_dump(mode="json", exclude_none=True)
    return JSONResponse(_clean(content), status, {**(headers or {}), "Cache-Control": "no-store"}, MEDIA_TYPE)


def describe(error: Exception) -> ProblemError:
    """What a client is told of an error; everything unforeseen is a 500 that says nothing."""
    match error:
        case ProblemError():
            return error
        case OverloadedError():
            return ProblemError(429, str(error), {"Retry-After": str(error.retry_after)})
        case FetchError():
            status = 413 if error.reason.value.startswith(("too_many", "animation")) else 422
            return ProblemError(status, f"The image cannot be taken: {error.evidence or error.reason.value}.")
        case QueryError():
            return ProblemError(422, str(error))
        case NotBuiltError():
            return ProblemError(404, str(error))
        case ModelError() | StorageError():
            _log.error("%s", error)
            return ProblemError(503, "The atlas or one of its models cannot be read just now.", {"Retry-After": "30"})
        case LatentAssetsError():
            return ProblemError(422, str(error))
    _log.error("unexpected error", exc_info=error)
    return ProblemError(500, "Something unexpected went wrong; it is in the service's log.")


def install(app: FastAPI) -> None:
    """Answer every error of `app` with problem details."""

    async def known(request: Request, error: Exception) -> Response:
        found = describe(error)
        return problem(found.status, found.detail, found.headers)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _DETAILS[error.status_code]
        headers = {**(error.headers or {}), **({"Allow": _allowed(request)} if error.status_code == 405 else {})}
        return problem(error.status_code, detail, headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [
            InvalidValue(where=".".join(map(str, item["loc"]))[:200], what=str(item["msg"])[:200])
            for item in error.errors()[:20]
        ]
        return problem(422, "; ".join(f"{item.where}: {item.what}" for item in errors), errors=errors)

    for kind in (ProblemError, OverloadedError, FetchError, LatentAssetsError, Exception):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _allowed(request: Request) -> str:
    """The methods of an address: several routes may have it, and the files of the viewer have none below /api."""
    inside = request.url.path.startswith("/api/")
    routes = [route for route in request.app.routes if isinstance(route, APIRoute)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    found = [route.methods or set() for route in matching if route.include_in_schema or not inside]
    return ", ".join(sorted(set().union(*found)))


_DETAILS = {
    **{status.value: status.description or status.phrase for status in HTTPStatus},
    404: "There is nothing at this address: /api/openapi.json says what there is.",
    405: "This address does not know that method: see the header Allow.",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the problems that a route answers with."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value
