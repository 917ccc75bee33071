"""What requests have freed goes back to the system."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from myna.apps.serve.memory import ARENAS, GivingBack, _glibc, few_arenas, give_back

needs_glibc = pytest.mark.skipif(_glibc() is None, reason="needs glibc")


def in_a_process(program: str, **environment: str) -> list[float]:
    """The numbers that a program prints whose allocator is as at the start of one."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return [float(word) for word in done.stdout.split()]


_ARENAS_OF_TWENTY_THREADS = """
import ctypes, sys, tempfile, threading
from myna.apps.serve.memory import few_arenas
few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.fopen.restype = ctypes.c_void_p
all_there = threading.Barrier(20)
def work():
    all_there.wait()
    libc.malloc(5000)
    all_there.wait()
threads = [threading.Thread(target=work) for _ in range(20)]
[one.start() for one in threads]
[one.join() for one in threads]
with tempfile.NamedTemporaryFile() as file:
    opened = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, opened)
    libc.fclose(opened)
    print(file.read().count(b"<heap nr"))
"""


@needs_glibc
def test_any_number_of_threads_shares_few_arenas():
    variables = {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}
    with pytest.MonkeyPatch.context() as patch:
        for name in variables:
            patch.delenv(name, raising=False)
        assert in_a_process(_ARENAS_OF_TWENTY_THREADS) == [ARENAS]
        assert in_a_process(_ARENAS_OF_TWENTY_THREADS, MALLOC_ARENA_MAX="1") == [1]  # as it was told


_FREED_AMONG_WHAT_STAYS = """
import sys
from pathlib import Path
from myna.apps.serve.memory import give_back
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
before = resident()
pieces = [bytes(100_000) for _ in range(2000)]  # too small for glibc to map each by itself
for i in range(len(pieces) - 1):  # the last one keeps the heap from shrinking
    pieces[i] = None
kept = resident() - before
give_back()
print(kept, resident() - before)
"""


@needs_glibc
def test_what_was_freed_below_something_that_stays_is_given_back():
    kept, after = in_a_process(_FREED_AMONG_WHAT_STAYS)
    assert kept > 100
    assert after < 20


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr("myna.apps.serve.memory._glibc", lambda: None)
    few_arenas({})
    give_back()


def test_requests_that_end_together_are_one_time():
    done: list[int] = []

    async def run() -> None:
        giving = GivingBack(0.0, lambda: done.append(threading.get_ident()))
        for _ in range(5):
            giving.ended()
        while not done:
            await asyncio.sleep(0)
        giving.ended()
        while len(done) < 2:
            await asyncio.sleep(0)
        await giving.close()

    asyncio.run(run())
    assert len(done) == 2
    assert threading.get_ident() not in done  # the event loop does not wait for it


def test_a_server_that_ends_waits_for_nothing():
    async def run() -> None:
        giving = GivingBack(3600.0)
        giving.ended()
        await giving.close()
        await GivingBack().close()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["speech", "transcription", "refused"])
def test_every_request_is_followed_by_it(serve, kind):
    server = serve()
    ended = threading.Event()
    server.house.memory.ended = ended.set
    if kind == "speech":
        body = {"input": "Yes.", "voice": "ada"}
        answer = httpx.post(server.url + "/v1/audio/speech", json=body, timeout=60)
    else:
        path = Path(__file__).parents[2] / "assets" / "speech.wav"
        data = path.read_bytes() if kind == "transcription" else b"noise"
        answer = httpx.post(
            server.url + "/v1/audio/transcriptions",
            files={"file": ("a.wav", data)},
            data={"beam_size": "1"},
            timeout=120,
        )
    assert answer.status_code == (400 if kind == "refused" else 200)
    assert ended.wait(20)
