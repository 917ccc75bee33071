"""What the server is told when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ...errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Limits:
    """Of one request."""

    characters: int = 4096  # of a text to be said, as OpenAI has it
    upload_bytes: int = 25 << 20  # of a recording, as OpenAI has it
    json_bytes: int = 1 << 20  # of every other body
    seconds: float = 3600.0  # of a recording
    deadline: float = 600.0  # seconds until a request is ended, waiting included
    stall: float = 60.0  # seconds for which a client may take nothing of what is ready
    voices: int = 1000  # that are kept


@dataclass(frozen=True)
class ServeOptions:
    """host, port: where.   api_keys: of which every request has to carry one; empty: none is asked for.
    cors: origins whose pages may use the server, "*": all.   max_concurrency: requests of a kind (speech,
    transcription) that are worked on at a time.   queue: requests of a kind that wait for that.
    models: Whispers that are kept in memory.   default_model: for transcription, None: the best on this machine.
    idle: seconds after which TorToise is let go when nobody speaks with it.   page: the demo at "/".
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # never in a log
    cors: tuple[str, ...] = ()
    max_concurrency: int = field(default_factory=lambda: 4 * (os.cpu_count() or 1))
    queue: int = 64
    models: int = 2
    default_model: str | None = None
    idle: float = 900.0
    page: bool = True
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is not a port; give 1 to 65535")
        for name, value, least in (
            ("max-concurrency", self.max_concurrency, 1),
            ("queue", self.queue, 0),
            ("max-models", self.models, 1),
        ):
            if value < least:
                raise UsageError(f"--{name} is {value}; give at least {least}")
        if any(len(key) < 8 or not key.isascii() or key != key.strip() for key in self.api_keys):
            raise UsageError(
                "an API key has at least 8 characters, all of them ASCII, none of them a space at an end"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK
