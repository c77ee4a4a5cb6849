"""S3 that is out of reach for a moment (a restarted server, a cut line): calls are made again for about a minute.

What calls are made, and what is said when they fail in the end, is decided in `storage`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import time
from typing import Any

from fsspec.exceptions import FSTimeoutError
from s3fs import S3FileSystem

PATIENCE = 60.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_LOST = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH}
_OVERLOADED = 429
_UNREACHABLE = {"botocore.exceptions.ConnectionError", "botocore.exceptions.HTTPClientError"}

_logger = logging.getLogger(__name__)


class PatientS3FileSystem(S3FileSystem):  # type: ignore[misc]
    """S3 as s3fs has it; a call that meets no server, or one in trouble, is made again until PATIENCE is over."""

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return await super()._call_s3(method, *arguments, **options)
            except Exception as error:
                waited = time.monotonic() - began
                if not may_pass(error) or waited > PATIENCE:
                    raise
                if pause == _FIRST_PAUSE:
                    _logger.warning("S3 does not answer (%s): trying again for up to %.0f s.", error, PATIENCE)
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(_LONGEST_PAUSE, pause * 1.6)


def may_pass(error: BaseException) -> bool:
    """Whether an error of a call tells of a server that may be back soon, rather than of what was asked."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status >= 500 or status == _OVERLOADED
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if kinds & _UNREACHABLE or isinstance(error, FSTimeoutError | TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in _LOST
