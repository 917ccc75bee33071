"""What goes wrong, as a status and OpenAI's envelope: {"error": {message, type, param, code}}; the message is a sentence."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Any

from ...errors import CorruptStreamError, InputError, MissingModelError, MynaError, OutputError, UsageError

log = logging.getLogger("myna.serve")


class Problem(MynaError):
    """An answer that is no success.   status: of HTTP.   kind, code, param: of the envelope."""

    status, kind, code = 500, "server_error", "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param = param
        self.code = code or type(self).code

    @property
    def headers(self) -> Mapping[str, str]:
        return {}


class Invalid(Problem):
    status, kind, code = 400, "invalid_request_error", "invalid_value"


class Unauthorized(Problem):
    status, kind, code = 401, "invalid_request_error", "invalid_api_key"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"WWW-Authenticate": 'Basic realm="myna"'}


class Forbidden(Problem):
    status, kind, code = 403, "invalid_request_error", "forbidden"


class NotFound(Problem):
    status, kind, code = 404, "invalid_request_error", "not_found"


class Conflict(Problem):
    status, kind, code = 409, "invalid_request_error", "already_exists"


class TooLarge(Problem):
    status, kind, code = 413, "invalid_request_error", "request_too_large"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Connection": "close"}  # the rest of the body is not waited for


class Busy(Problem):
    """retry_after: seconds."""

    status, kind, code = 429, "rate_limit_error", "server_busy"

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(self.retry_after)}


class TooLate(Problem):
    status, kind, code = 504, "server_error", "deadline_exceeded"


_OURS: tuple[tuple[type[MynaError], type[Problem], str], ...] = (
    (UsageError, Invalid, "invalid_value"),
    (InputError, Invalid, "invalid_audio"),
    (CorruptStreamError, Invalid, "invalid_audio"),
    (MissingModelError, NotFound, "model_not_found"),
)


class NoSpace(Problem):
    status, kind, code = 507, "server_error", "insufficient_storage"


def problem_of(error: BaseException) -> Problem:
    """The answer to an error. What was not foreseen is told to the log, not to the client."""
    if isinstance(error, Problem):
        return error
    for kind, problem, code in _OURS:
        if isinstance(error, kind):
            return problem(str(error), code=code)
    if isinstance(error, OutputError) or (isinstance(error, OSError) and error.errno in _FULL):
        log.error("%s", error)
        return NoSpace("the server cannot write to its disk; make room there, then try again")
    if isinstance(error, TimeoutError):
        return TooLate("the request took longer than the server allows; send less at a time")
    if isinstance(error, MemoryError):
        log.error("out of memory")
        return Problem("the server is out of memory; try again later")
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return Problem("something went wrong in the server; its log says what")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def envelope(problem: Problem) -> dict[str, Any]:
    return {
        "error": {
            "message": str(problem),
            "type": problem.kind,
            "param": problem.param,
            "code": problem.code,
        }
    }
