"""What can become of a row: the fixed vocabulary of outcomes and reasons, and the record that the ledger keeps.

Which answer has which reason is decided where it is noticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a row of the catalog."""

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"
    OPTED_OUT = "opted_out"


class Reason(StrEnum):
    """Why. Each reason belongs to one outcome (`OUTCOME_OF`)."""

    OK = "ok"
    # failed: the network
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    INCOMPLETE = "incomplete_body"
    PROTOCOL = "protocol_error"
    HOST_DOWN = "host_down"
    # failed: the answer
    NOT_FOUND = "http_not_found"
    FORBIDDEN = "http_forbidden"
    RATE_LIMITED = "http_rate_limited"
    CLIENT_ERROR = "http_client_error"
    SERVER_ERROR = "http_server_error"
    UNEXPECTED_STATUS = "http_unexpected_status"
    REDIRECT_LOOP = "redirect_loop"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    BAD_REDIRECT = "bad_redirect"
    # failed: the content
    BAD_URL = "bad_url"
    EMPTY = "empty_body"
    NOT_AN_IMAGE = "not_an_image"
    VECTOR_IMAGE = "vector_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT = "corrupt_image"
    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    # refused: by our own rules
    SCHEME = "scheme_not_allowed"
    PRIVATE_ADDRESS = "private_address"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    ANIMATION_TOO_LARGE = "animation_too_large"
    # opted out: by whoever publishes the image
    ROBOTS = "robots_txt"
    ROBOTS_UNREACHABLE = "robots_txt_unreachable"
    X_ROBOTS_TAG = "x_robots_tag"
    TDM_RESERVATION = "tdm_reservation"
    # its bytes are those of an image that was taken down
    TAKEN_DOWN = "taken_down"


_REFUSED = {
    Reason.SCHEME,
    Reason.PRIVATE_ADDRESS,
    Reason.TOO_MANY_BYTES,
    Reason.TOO_MANY_PIXELS,
    Reason.ANIMATION_TOO_LARGE,
}
_OPTED_OUT = {Reason.ROBOTS, Reason.X_ROBOTS_TAG, Reason.TDM_RESERVATION, Reason.TAKEN_DOWN}

OUTCOME_OF: dict[Reason, Outcome] = {
    reason: Outcome.OK
    if reason is Reason.OK
    else Outcome.REFUSED
    if reason in _REFUSED
    else Outcome.OPTED_OUT
    if reason in _OPTED_OUT
    else Outcome.FAILED
    for reason in Reason
}

# failures that may go away by themselves within seconds: tried again in the same run
TRANSIENT = frozenset(
    {
        Reason.DNS,
        Reason.CONNECT,
        Reason.DISCONNECTED,
        Reason.INCOMPLETE,
        Reason.RATE_LIMITED,
        Reason.SERVER_ERROR,
        Reason.ROBOTS_UNREACHABLE,
    }
)

# failures of a whole host rather than of one link
HOST_FAILURES = frozenset({Reason.DNS, Reason.CONNECT, Reason.TLS, Reason.TIMEOUT, Reason.DISCONNECTED})

# reasons that speak of this machine's network when nearly all rows have them
NETWORK = HOST_FAILURES | {Reason.HOST_DOWN, Reason.INCOMPLETE, Reason.PROTOCOL, Reason.ROBOTS_UNREACHABLE}


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class FetchError(Exception):
    """A row that gives no image: the reason, and what is known about the answer."""

    def __init__(
        self,
        reason: Reason,
        evidence: str = "",
        *,
        status: int | None = None,
        redirects: int = 0,
        retry_after: float | None = None,
        body_bytes: int | None = None,
        final: bool = False,
    ) -> None:
        self.reason = reason
        # headers and names of strangers: whatever is in them must fit into a table. Libraries name their objects by
        # where they lie in memory, which says nothing and differs from run to run
        self.evidence = _ADDRESS.sub("", evidence[:1000]).encode("utf-8", "replace").decode()
        super().__init__(f"{reason}: {self.evidence}" if evidence else str(reason))
        self.status = status
        self.redirects = redirects
        self.retry_after = retry_after
        self.body_bytes = body_bytes
        self.may_pass = reason in TRANSIENT and not final


@dataclass  # not frozen: thousands are made at once, and that takes three times as long
class LedgerRow:
    """What became of one row. Sizes in pixels and bytes; hashes in hexadecimal; `fetched_at` in Unix seconds.

    `fetched_at` is None where a lost ledger was made anew from the tar.

    `sha256` is that of the bytes as they came, `stored_sha256` of those in the tar. `origin` identifies what was
    fetched, `row_hash` the catalog row as it went into the sidecars, `recipe` how the image was stored; of a
    row without one, the setting that decided it (`max_bytes=50000000`), when one did.
    """

    id: str
    url: str
    outcome: str
    reason: str
    http_status: int | None = None
    redirects: int = 0
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    stored_width: int | None = None
    stored_height: int | None = None
    stored_bytes: int | None = None
    extension: str | None = None
    sha256: str | None = None
    stored_sha256: str | None = None
    fetched_at: float | None = 0.0
    attempts: int = 0
    evidence: str | None = None
    origin: str = ""
    row_hash: str = ""
    recipe: str = ""


def outcome_of(reason: Reason) -> str:
    """The outcome a reason belongs to."""
    return OUTCOME_OF[reason].value
