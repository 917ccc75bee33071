"""Events of the Wyoming protocol as they come, none of them longer than it may be.

{"type": ..., "data_length": n, "payload_length": m} newline, n bytes of JSON, m bytes of sound
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from wyoming.event import Event

from ..problems import InvalidError, TooLargeError

MOST = 1 << 20  # bytes of a part: five seconds of stereo at 48 kHz


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """None where the client has gone. Raises InvalidError for what is no event, TooLargeError; after
    them the stream is of no use."""
    try:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            return None
        head = _object(line)
        data = head.get("data") or {}
        if n := _length(head, "data_length"):
            data = {**data, **_object(await reader.readexactly(n))}
        n = _length(head, "payload_length")
        payload = await reader.readexactly(n) if n else None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except ValueError:  # of asyncio, for a line without an end
        raise TooLargeError(
            "an event's first line is longer than 64 KB; send what is long as its payload"
        ) from None
    kind = head.get("type")
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise InvalidError("expected events of Wyoming: an object with a type, and data that are an object")
    return Event(kind, data, payload)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidError("expected events of Wyoming: a line of JSON, and as many bytes as it says")
    return found


def _length(head: dict[str, Any], name: str) -> int:
    n = head.get(name) or 0
    if not isinstance(n, int) or n < 0:
        raise InvalidError(f"{name} of an event is {str(n)[:40]!r}, which is no number of bytes")
    if n > MOST:
        raise TooLargeError(f"{name} of an event is {n}; send at most {MOST} bytes at a time")
    return n
