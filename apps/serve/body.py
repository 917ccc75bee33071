"""Bodies of requests within their limits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse

from .deadlines import within
from .options import Limits
from .problems import InvalidError, ProblemError, TooLargeError, TooSlowError, envelope
from .security import App, Receive, Scope, Send

_ROOM = 1 << 20  # bytes of a form beside its file, and of a field
_REFERENCE = 4 << 20  # characters of a data URL: ten seconds in 16 bits, 48 kHz and stereo have 2.6 million
_REFERENCES = ("/v1/audio/transcriptions", "known_speaker_references[]", 4)  # where, in which field, how many
_UPLOADS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/voices")


class BodyLimit:
    """The middleware: a body that is too long is refused by its stated length, or as soon as it has become too long;
    one of which nothing comes for `stall` seconds is, too, and one that has not come by the deadline."""

    def __init__(self, app: App, limits: Limits):
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        upload = scope["path"] in _UPLOADS
        most = self.limits.upload_bytes + _ROOM if upload else self.limits.json_bytes
        if scope["path"] == _REFERENCES[0]:
            most += _REFERENCES[2] * _REFERENCE
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = TooLargeError(f"the request is longer than {most // (1 << 20)} MB; send less")
        end = time.monotonic() + self.limits.deadline
        n_read, is_whole, refused = 0, False, False
        refusal: ProblemError | None = too_large if stated.isdigit() and int(stated) > most else None

        async def counted() -> MutableMapping[str, Any]:
            nonlocal n_read, is_whole, refusal
            if refusal is None and not is_whole:
                try:
                    async with within(min(self.limits.stall, end - time.monotonic())):
                        message = await receive()
                except TimeoutError:
                    refusal = TooSlowError("the request does not come; send it without pauses")
                else:
                    n_read += len(message.get("body", b""))
                    is_whole = not message.get("more_body", False)
                    if n_read <= most:
                        return message
                    refusal = too_large
            if refusal is not None:
                raise refusal
            return await receive()  # until the client goes

        async def answered(message: MutableMapping[str, Any]) -> None:
            """Whoever read the body may have taken the exception for a damaged one."""
            nonlocal refused
            if refusal is None:
                await send(message)
            elif not refused:
                refused = True
                response = JSONResponse(envelope(refusal), refusal.status, dict(refusal.headers))
                await response(scope, receive, send)

        await self.app(scope, counted, answered)


@dataclass(frozen=True)
class Upload:
    """A file of a request, on the disk where it is long, so that any number may wait.   kind: its media type, as the
    client has it."""

    file: BinaryIO
    kind: str


async def read_form(request: Request, files: contextlib.ExitStack) -> FormData:
    """A multipart form. Its files are on the disk where they are long, and are closed, and with that deleted, by
    `files`. Raises InvalidError."""
    form = await _read_form(request)
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.callback(value.file.close)
    _check_fields(form)
    return form


async def _read_form(request: Request) -> FormData:
    # Read by a request of its own: the one that the framework has lives until the answer has been sent, and all fields
    # with it.
    request = Request(request.scope, request.receive)
    if not request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form")):
        raise InvalidError("expected a form (multipart/form-data) with a file")
    try:
        longest = _REFERENCE if request.url.path == _REFERENCES[0] else _ROOM
        return await request.form(max_files=2, max_fields=64, max_part_size=longest)
    except MultiPartException as error:
        raise InvalidError(f"the form cannot be read: {error.message.rstrip('.').lower()}") from None
    except Exception as error:
        if type(error).__name__ != "HTTPException":
            raise
        raise InvalidError(f"the form cannot be read: {getattr(error, 'detail', error)}") from None


def _check_fields(form: FormData) -> None:
    for name, value in form.multi_items():
        if isinstance(value, str) and len(value) > _ROOM and name != _REFERENCES[1]:
            raise InvalidError(f"the field {name[:64]} is longer than {_ROOM >> 20} MB; send less")


def upload_of(form: FormData, name: str, limits: Limits) -> Upload:
    """A file of the form, not read yet. Raises InvalidError where there is none, TooLargeError."""
    file = form.get(name)
    if not isinstance(file, UploadFile):
        raise InvalidError(f"the form has no file named {name}", param=name, code="missing_file")
    if (file.size or 0) > limits.upload_bytes:
        raise TooLargeError(
            f"the file is longer than {limits.upload_bytes >> 20} MB; send it in parts", param=name
        )
    return Upload(file.file, file.content_type or "")


def fields_of(form: FormData) -> dict[str, Any]:
    """The fields that are no files; those that end in [] as lists, `name[part]` as a dict of parts."""
    fields: dict[str, Any] = {}
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        name, bracket, part = key.removesuffix("]").partition("[")
        if key.endswith("]") and bracket:
            known = fields.setdefault(name, {} if part else [])
            if part and isinstance(known, dict):
                known[part] = value
            elif not part and isinstance(known, list):
                known.append(value)
        else:
            fields[key] = value
    return fields
