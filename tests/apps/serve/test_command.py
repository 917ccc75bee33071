"""`myna serve` refuses what cannot be, before anything is loaded."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture
def serve(myna):
    return lambda *args: myna("serve", *args)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--port", "99999"), "not a port"),
        (("--queue", "-1"), "--queue is -1"),
        (("--max-concurrency", "0"), "--max-concurrency is 0"),
        (("--max-models", "0"), "--max-models is 0"),
        (("--api-key", "short"), "at least 8 characters"),
        (("--host", "198.51.100.7"), "cannot serve at 198.51.100.7"),
    ],
)
def test_what_cannot_be_is_one_line(serve, args, words):
    serve(*args).failed_with(2, words)


def test_a_port_that_is_taken_is_one_line(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serve("--port", taken.getsockname()[1]).failed_with(2, "cannot serve at 127.0.0.1")
