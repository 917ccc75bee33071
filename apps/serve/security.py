"""Who may use the server: keys, origins and hosts, checked before anything of a request is read.

Without options only programs of this machine may. A page of any website can send requests to a server of this machine,
too, and one that renames its own host can even read the answers; so an Origin that was not named with --cors is
refused, and on loopback every Host that is not loopback.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from .options import LOOPBACK, ServeOptions
from .problems import ForbiddenError, ProblemError, UnauthorizedError, envelope

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN = ("/health", "/ready")  # for whoever watches over the server
_SUBPROTOCOL = "openai-insecure-api-key."  # how OpenAI's browser clients send a key to a WebSocket
_POLICY_VIOLATION = 1008


class Keys:
    """Compared by their digests in constant time: neither their lengths nor their beginnings can be measured."""

    def __init__(self, keys: Iterable[str]):
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def client(self, given: Iterable[str]) -> str | None:
        """A name for the key that is among those given, None where none is right."""
        found = None
        for key in given:
            digest = _digest(key)
            for own in self._digests:
                if hmac.compare_digest(digest, own):
                    found = "key-" + own.hex()[:12]
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Guard:
    """The middleware. It puts the client's name into the scope: of its key, else its address."""

    def __init__(self, app: App, options: ServeOptions):
        self.app, self.options, self.keys = app, options, Keys(options.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_host(headers)
            self._check_origin(headers)
            # A browser asks without the key whether it may ask with it.
            asks_first = scope.get("method") == "OPTIONS" and "access-control-request-method" in headers
            scope["client_name"] = "preflight" if asks_first else self._client(scope, headers)
        except ProblemError as problem:
            await _refuse(problem, scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_host(self, headers: MutableMapping[str, str]) -> None:
        host = _hostname(headers.get("host", ""))
        if self.options.is_local and host not in (*LOOPBACK, "testserver"):
            raise ForbiddenError(
                f"this server answers to {', '.join(LOOPBACK)} only, not to {host!r}; start it with --host"
            )

    def _check_origin(self, headers: MutableMapping[str, str]) -> None:
        origin = headers.get("origin")
        if origin is None or "*" in self.options.cors or origin in self.options.cors:
            return
        if urlsplit(origin).netloc != headers.get("host"):
            raise ForbiddenError(f"pages of {origin} may not use this server; start it with --cors {origin}")

    def _client(self, scope: Scope, headers: MutableMapping[str, str]) -> str:
        address = (scope.get("client") or ("local", 0))[0]
        if not self.keys or scope["path"] in _OPEN:
            return f"address-{address}"
        found = self.keys.client(_given(headers))
        if found is None:
            raise UnauthorizedError("the API key is missing or wrong; send it as Authorization: Bearer KEY")
        return found


def _given(headers: MutableMapping[str, str]) -> list[str]:
    """The keys that a request carries: as OpenAI's clients send them, as a browser does that asked its user."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    given = [headers["x-api-key"]] if "x-api-key" in headers else []
    if scheme.lower() == "bearer":
        given.append(value.strip())
    elif scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            given.append(base64.b64decode(value, validate=True).decode().partition(":")[2])
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(_SUBPROTOCOL):
            given.append(protocol.strip()[len(_SUBPROTOCOL) :])
    return given


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _refuse(problem: ProblemError, scope: Scope, receive: Receive, send: Send) -> None:
    from starlette.responses import JSONResponse

    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": str(problem)[:120]})
        return
    response = JSONResponse(envelope(problem), problem.status, dict(problem.headers))
    await response(scope, receive, send)
