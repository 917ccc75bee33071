"""What goes wrong, as a status and OpenAI's envelope: {"error": {message, type, param, code}}."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Any

from ...errors import CorruptStreamError, InputError, MissingModelError, MynaError, OutputError, UsageError

log = logging.getLogger("myna.serve")


class ProblemError(MynaError):
    """An answer that is no success.   status: of HTTP.   kind, code, param: of the envelope."""

    status, kind, code = 500, "server_error", "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param = param
        self.code = code or type(self).code

    @property
    def headers(self) -> Mapping[str, str]:
        return {}


class InvalidError(ProblemError):
    status, kind, code = 400, "invalid_request_error", "invalid_value"


class UnauthorizedError(ProblemError):
    status, kind, code = 401, "invalid_request_error", "invalid_api_key"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"WWW-Authenticate": 'Basic realm="myna"'}


class ForbiddenError(ProblemError):
    status, kind, code = 403, "invalid_request_error", "forbidden"


class NotFoundError(ProblemError):
    status, kind, code = 404, "invalid_request_error", "not_found"


class ConflictError(ProblemError):
    status, kind, code = 409, "invalid_request_error", "already_exists"


class TooLargeError(ProblemError):
    status, kind, code = 413, "invalid_request_error", "request_too_large"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Connection": "close"}  # the rest of the body is not waited for


class TooSlowError(ProblemError):
    """Of a client that does not send what it has begun."""

    status, kind, code = 408, "invalid_request_error", "request_timeout"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Connection": "close"}


class BusyError(ProblemError):
    """retry_after: seconds."""

    status, kind, code = 429, "rate_limit_error", "server_busy"

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(self.retry_after)}


class ClosingError(ProblemError):
    """The server ends; another may take its place soon."""

    status, kind, code = 503, "server_error", "server_closing"

    def __init__(self) -> None:
        super().__init__("the server is closing; try again in a few seconds")

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": "5", "Connection": "close"}


class TooLateError(ProblemError):
    status, kind, code = 504, "server_error", "deadline_exceeded"


_OURS: tuple[tuple[type[MynaError], type[ProblemError], str], ...] = (
    (UsageError, InvalidError, "invalid_value"),
    (InputError, InvalidError, "invalid_audio"),
    (CorruptStreamError, InvalidError, "invalid_audio"),
    (MissingModelError, NotFoundError, "model_not_found"),
)


class NoSpaceError(ProblemError):
    status, kind, code = 507, "server_error", "insufficient_storage"


def problem_of(error: BaseException) -> ProblemError:
    """The answer to an error. What was not foreseen is told to the log, not to the client."""
    if isinstance(error, ProblemError):
        return error
    for kind, problem, code in _OURS:
        if isinstance(error, kind):
            return problem(str(error), code=code)
    if isinstance(error, OutputError) or (isinstance(error, OSError) and error.errno in _FULL):
        log.error("%s", error)
        return NoSpaceError("the server cannot write to its disk; make room there, then try again")
    if isinstance(error, TimeoutError):
        return TooLateError("the request took longer than the server allows; send less at a time")
    if isinstance(error, MemoryError):
        log.error("out of memory")
        return ProblemError("the server is out of memory; try again later")
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return ProblemError("something went wrong in the server; its log says what")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def envelope(problem: ProblemError) -> dict[str, Any]:
    return {
        "error": {
            "message": str(problem),
            "type": problem.kind,
            "param": problem.param,
            "code": problem.code,
        }
    }
