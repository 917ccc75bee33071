"""`myna serve` under load: how soon the first sound is heard, how much is said, what it takes.

    python benchmarks/server.py                       # speech with 1, 4, 8, 16 and 64 clients, and the overhead
    python benchmarks/server.py --transcribe          # transcription, too; --beside URL for another server's
    python benchmarks/server.py --soak 600            # four times its capacity, clients that vanish, damaged uploads

The server runs in a process of its own, started here. Every client asks again as soon as it has its answer, until the
time is over; then each waits for the answer that it has asked for. Latency counts from the request to the first byte of
sound; requests a second by all of the time, seconds of speech a second by the time in which all clients were there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from myna.apps.serve.options import ServeOptions
from myna.data.wav import to_int16

ROOT = Path(__file__).resolve().parents[1]
TEXTS = (
    "The morning train was late again, and nobody on the platform seemed to mind.",
    "She kept the letters in a wooden box under the window of the kitchen.",
    "Where the river turns, there is an old mill with a red door.",
    "We will meet at half past seven, in front of the museum.",
)
SHORT = ("Yes.", "Good morning.", "Three of them.", "Not today.")  # of the soak
# Answers of the soak after which a decoder has done its work.
_DECODED = ("recording 200", "noise 400", "cut 400", "bomb 400")
RATE = 24_000
START_SECONDS = 120.0  # on a core that others use, too


@dataclass(frozen=True)
class Row:
    """One measurement. first_p50, first_p99: seconds.   rate: requests a second.   speech: seconds of it a second.
    processor: seconds of it that the server takes for a second of speech.   memory: MB of it and its processes."""

    clients: int
    requests: int
    rate: float
    first_p50: float
    first_p99: float
    speech: float
    processor: float
    memory: float
    refused: int


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] if ordered else float("nan")


def memory(pid: int) -> float:
    """MB of memory that a process and its children hold, what they share counted once: a decoder that has just been
    forked has all of the server's, until it runs a program of its own."""
    pids = [pid]
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            pids += [int(number) for number in child.read_text().split()]
    held = 0
    for one in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            held += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return held * 1024 / 1e6


def processor(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def one_request(
    client: httpx.AsyncClient, text: str, seed: int, hear: Callable[[int], None] = lambda n: None
) -> float | None:
    """Seconds to the first sound; None if it was turned away.   hear: is told of bytes as they come."""
    body = {"input": text, "voice": "nova", "response_format": "pcm", "seed": seed}
    began, first = time.perf_counter(), None
    async with client.stream("POST", "/v1/audio/speech", json=body) as response:
        if response.status_code == 429:
            await response.aread()
            await asyncio.sleep(float(response.headers["retry-after"]) * random.uniform(0.5, 1))
            return None
        response.raise_for_status()
        async for part in response.aiter_bytes():
            first = first or time.perf_counter() - began
            hear(len(part))
    assert first is not None
    return first


async def load(url: str, pid: int, n_clients: int, seconds: float) -> Row:
    firsts: list[float] = []
    refused, n_bytes, n_in_time, most = 0, 0, 0, 0.0
    before = processor(pid)
    began = time.perf_counter()
    end = began + seconds

    def hear(n: int) -> None:
        nonlocal n_bytes, n_in_time
        n_bytes += n
        if time.perf_counter() < end:
            n_in_time += n

    async def work(number: int) -> None:
        nonlocal refused
        async with httpx.AsyncClient(base_url=url, timeout=600, verify=False) as client:
            turn = 0
            while time.perf_counter() < end:
                text = TEXTS[(number + turn) % len(TEXTS)]
                first = await one_request(client, text, 100 * number + turn, hear)
                turn += 1
                if first is None:
                    refused += 1
                else:
                    firsts.append(first)

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, memory(pid))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(work(number) for number in range(n_clients)))
    watching.cancel()
    return Row(
        n_clients,
        len(firsts),
        len(firsts) / (time.perf_counter() - began),
        percentile(firsts, 0.5),
        percentile(firsts, 0.99),
        n_in_time / 2 / RATE / seconds,
        (processor(pid) - before) / (n_bytes / 2 / RATE),
        most,
        refused,
    )


# Of the server of this script: what its options are on this machine.
CAPACITY = ServeOptions().max_concurrency + ServeOptions().queue


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def arguments(port: int, home: int | None) -> list[str]:
    """Of `myna`. home: a port for Wyoming."""
    beside = [] if home is None else ["--wyoming", str(home)]
    return ["serve", "--port", str(port), "--no-page", "--model", "tiny.en", *beside]


def start(home: int | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """home: a port for Wyoming."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "myna", *arguments(port, home)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url + "/ready", timeout=5).status_code == 200:
                return process, url
        time.sleep(0.1)
    process.kill()
    raise SystemExit("the server did not start")


def overhead(url: str, pid: int, n: int = 8) -> dict[str, float]:
    """What a sentence takes through the server and in Python, medians of n, each in turn: seconds to its first sound;
    by the clock and of the processor, seconds a second of speech. ratio, processor_ratio: of these, sentence by
    sentence. What the client does is no part of the server's processor time; the clock has it, too, as both are on this
    machine. On a machine with other work the clock says more about that than about the server."""
    from myna.tts.speaker import Speaker

    speaker = Speaker()
    voice = speaker.voice("nova")
    rows = []

    def through(client: httpx.Client, text: str, seed: int) -> tuple[float, float, float]:
        body = {"input": text, "voice": "nova", "response_format": "pcm", "seed": seed}
        began, before, first, n_bytes = time.perf_counter(), processor(pid), 0.0, 0
        with client.stream("POST", "/v1/audio/speech", json=body) as answer:
            for part in answer.iter_bytes():
                first = first or time.perf_counter() - began
                n_bytes += len(part)
        seconds = n_bytes / 2 / RATE
        return first, (time.perf_counter() - began) / seconds, (processor(pid) - before) / seconds

    def direct(text: str, seed: int) -> tuple[float, float, float]:
        began, before, first, n_samples = time.perf_counter(), time.process_time(), 0.0, 0
        for chunk in speaker.stream(text, voice, seed=seed):
            first = first or time.perf_counter() - began
            n_samples += len(to_int16(chunk).tobytes()) // 2  # as the server sends it
        seconds = n_samples / RATE
        return first, (time.perf_counter() - began) / seconds, (time.process_time() - before) / seconds

    with httpx.Client(base_url=url, timeout=600, verify=False) as client:
        for i in range(n + 1):
            text = TEXTS[i % len(TEXTS)]
            if i % 2:
                served, own = through(client, text, i), direct(text, i)
            else:
                own, served = direct(text, i), through(client, text, i)
            rows.append((*served, *own))
    ways = ("server", "python")
    names = [f"{way}_{what}" for way in ways for what in ("first", "factor", "processor")]
    medians = [statistics.median(column) for column in zip(*rows[1:], strict=True)]
    ratios = {
        "ratio": statistics.median(row[1] / row[4] for row in rows[1:]),
        "processor_ratio": statistics.median(row[2] / row[5] for row in rows[1:]),
    }
    return {**dict(zip(names, medians, strict=True)), **ratios}


async def transcription(url: str, n_clients: int, seconds: float, model: str) -> tuple[float, int]:
    """Seconds of recordings transcribed a second."""
    data = (ROOT / "tests" / "assets" / "speech.wav").read_bytes()
    end, n = time.perf_counter() + seconds, 0
    began = time.perf_counter()

    async def work() -> None:
        nonlocal n
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            while time.perf_counter() < end:
                files = {"file": ("speech.wav", data, "audio/wav")}
                answer = await client.post("/v1/audio/transcriptions", files=files, data={"model": model})
                answer.raise_for_status()
                n += 1

    await asyncio.gather(*(work() for _ in range(n_clients)))
    return n * 7.05 / (time.perf_counter() - began), n


async def soak(
    url: str, pid: int, seconds: float, capacity: int, voice: str = "nova", home: int | None = None
) -> dict[str, object]:
    """Four times what is worked on at a time and waits, of every kind of client there is.

    capacity: requests of a kind that are worked on or wait. What is under way at the end may end, for a few minutes.
    home: the port of Wyoming, which Home Assistant speaks; None: not served.
    """
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    expected: dict[int | str, bytes] = {}
    readings = [memory(pid)]
    end = time.perf_counter() + seconds
    speech = (ROOT / "tests" / "assets" / "speech.wav").read_bytes()
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(4000 * 8000, np.int16), 8000, format="FLAC")  # more than an hour

    def spoken(number: int, **more: str) -> dict[str, Any]:
        return {"input": SHORT[number], "voice": voice, "response_format": "pcm", "seed": number, **more}

    def check(what: str, answer: httpx.Response, *right: int) -> None:
        """An answer of a status that is right, with one sentence if it is no success."""
        statuses[f"{what} {answer.status_code}"] += 1
        if answer.status_code not in (*right, 429, 504):
            wrong.append(f"{what}: {answer.status_code}: {answer.text[:200]}")
        elif answer.status_code != 200:
            message = answer.json()["error"]["message"]
            if not message or "\n" in message:
                wrong.append(f"{what}: {answer.status_code} without a sentence")

    async def say(client: httpx.AsyncClient, rng: random.Random) -> httpx.Response:
        number = rng.randrange(len(SHORT))
        answer = await client.post("/v1/audio/speech", json=spoken(number))
        check("speech", answer, 200)
        if answer.status_code == 200 and expected.setdefault(number, answer.content) != answer.content:
            wrong.append(f"text {number}: other samples than the first time")
        return answer

    async def hear(client: httpx.AsyncClient, rng: random.Random) -> httpx.Response:
        killed = statuses["decoders killed"]
        answer = await post(client, speech)
        # The server gives a recording to a second decoder, and no further: where that was killed, too, it is refused.
        twice = statuses["decoders killed"] >= killed + 2
        check("recording", answer, 200, *([400] if twice else []))
        if answer.status_code == 200:
            text = answer.json()["text"]
            if expected.setdefault(-1, text.encode()) != text.encode():
                wrong.append(f"the recording: {text!r}")
        return answer

    async def damage(client: httpx.AsyncClient, rng: random.Random) -> httpx.Response:
        kind = rng.choice(("noise", "cut", "bomb"))
        data = {
            "noise": rng.randbytes(rng.randrange(1, 20_000)),
            "cut": speech[: rng.randrange(1, 44)],
            "bomb": silence.getvalue(),
        }[kind]
        answer = await post(client, data)
        check(kind, answer, 400)
        return answer

    async def post(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
        return await client.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", data)}, data={"beam_size": "1"}
        )

    async def vanish(client: httpx.AsyncClient, rng: random.Random) -> httpx.Response:
        body = {"input": " ".join(SHORT) * 5, "voice": voice, "response_format": "mp3"}
        async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
            check("vanish", answer, 200)
            async for _ in answer.aiter_bytes():
                if rng.random() < 0.3:
                    break
        return answer

    async def read_slowly(client: httpx.AsyncClient, rng: random.Random) -> httpx.Response:
        number = rng.randrange(len(SHORT))
        data = b""
        async with client.stream("POST", "/v1/audio/speech", json=spoken(number)) as answer:
            if answer.status_code != 200:
                await answer.aread()
            check("slow", answer, 200)
            if answer.status_code == 200:
                async for part in answer.aiter_bytes(4096):
                    data += part
                    await asyncio.sleep(0.02)
                if expected.setdefault(number, data) != data:
                    wrong.append(f"text {number}: other samples than the first time, read slowly")
        return answer

    async def at_home(
        asks: list[Any], until: Any, rng: random.Random, goes: bool = False
    ) -> list[Any] | None:
        """Events of Home Assistant's, and what comes back up to an event of a kind; None for an error, which is
        counted.   goes: somewhere in the middle, perhaps."""
        from wyoming.client import AsyncTcpClient
        from wyoming.error import Error

        found: list[Any] = []
        async with AsyncTcpClient("127.0.0.1", home or 0) as client:
            for event in asks:
                await client.write_event(event.event())
            while not (found and until.is_type(found[-1].type)):
                event = await client.read_event()
                if event is None:
                    raise httpx.RemoteProtocolError("the connection ended")
                if Error.is_type(event.type):
                    error = Error.from_event(event)
                    statuses[f"home: {error.code}"] += 1
                    if error.code not in ("server_busy", "deadline_exceeded"):
                        wrong.append(f"home: {error.code}: {error.text}")
                    await asyncio.sleep(rng.uniform(0.1, 1))
                    return None
                found.append(event)
                if goes and rng.random() < 0.3:
                    break
        return found

    def the_same(what: str, key: str, data: bytes) -> None:
        statuses[what] += 1
        if expected.setdefault(key, data) != data:
            wrong.append(f"{what}: {key!r} is other than the first time")

    async def say_at_home(client: httpx.AsyncClient, rng: random.Random) -> None:
        from wyoming.audio import AudioChunk, AudioStop
        from wyoming.tts import Synthesize, SynthesizeVoice

        text = rng.choice(SHORT)
        found = await at_home([Synthesize(text, SynthesizeVoice(name=voice))], AudioStop, rng)
        if found is not None:
            parts = [AudioChunk.from_event(event).audio for event in found if AudioChunk.is_type(event.type)]
            the_same("said at home", text, b"".join(parts))

    async def hear_at_home(client: httpx.AsyncClient, rng: random.Random) -> None:
        from wyoming.asr import Transcribe, Transcript
        from wyoming.audio import AudioChunk, AudioStart, AudioStop

        samples, rate = soundfile.read(io.BytesIO(speech), dtype="int16")
        form = {"rate": rate, "width": 2, "channels": 1}
        chunks = [AudioChunk(audio=part.tobytes(), **form) for part in np.array_split(samples, 20)]
        asks = [Transcribe(language="en"), AudioStart(**form), *chunks, AudioStop()]
        found = await at_home(asks, Transcript, rng)
        if found is not None:
            the_same("heard at home", "recording", Transcript.from_event(found[-1]).text.encode())

    async def vanish_at_home(client: httpx.AsyncClient, rng: random.Random) -> None:
        from wyoming.audio import AudioStop
        from wyoming.tts import Synthesize, SynthesizeVoice

        asks = [Synthesize(" ".join(SHORT) * 5, SynthesizeVoice(name=voice))]
        if await at_home(asks, AudioStop, rng, goes=True) is not None:
            statuses["vanished at home"] += 1

    def n_decoded() -> int:
        return sum(n for kind, n in statuses.items() if kind in _DECODED)

    async def kill(client: httpx.AsyncClient, rng: random.Random) -> None:
        """The processes that decode, now and then; then another recording is heard. On a slow machine not before
        one is: they would be killed while they start, again and again."""
        before = n_decoded()
        await asyncio.sleep(rng.uniform(1, 4))
        while n_decoded() == before and time.perf_counter() < end:
            await asyncio.sleep(0.1)
        for child in decoders(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        statuses["decoders killed"] += 1

    kinds = [say, say, hear, vanish, read_slowly, damage]
    kinds += [] if home is None else [say_at_home, hear_at_home, vanish_at_home]

    async def work(number: int) -> None:
        rng = random.Random(number)
        # Longer than a request may take in the server, which then says so.
        async with httpx.AsyncClient(base_url=url, timeout=900, verify=False) as client:
            while time.perf_counter() < end:
                try:
                    kind = kill if number == 0 else kinds[number % len(kinds)]
                    answer = await kind(client, rng)
                    if answer is not None and answer.status_code == 429:
                        pause = float(answer.headers["retry-after"]) * rng.uniform(0.1, 1)
                        await asyncio.sleep(min(pause, max(0.0, end - time.perf_counter())))
                except (httpx.TransportError, ConnectionError) as error:
                    statuses[type(error).__name__] += 1

    async def watch() -> None:
        said = time.perf_counter()
        while True:
            readings.append(memory(pid))
            await asyncio.sleep(0.5)
            if time.perf_counter() > said + 60:  # so that one that is cut off has said something
                said = time.perf_counter()
                now = f"{end - said:.0f} s left, {readings[-1]:.0f} MB, {len(wrong)} wrong"
                print(now, dict(sorted(statuses.items())), file=sys.stderr, flush=True)

    watching = asyncio.create_task(watch())
    working = [asyncio.create_task(work(number)) for number in range(4 * capacity)]
    _, late = await asyncio.wait(working, timeout=seconds + 300, return_when=asyncio.FIRST_EXCEPTION)
    for task in working:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.wait(working)
    watching.cancel()
    return {
        "seconds": seconds,
        "took": time.perf_counter() - end + seconds,
        "clients": 4 * capacity,
        "cut_off": len(late),  # clients that had no answer five minutes after the end
        "answers": dict(sorted(statuses.items())),
        "wrong": wrong[:20],
        "memory_mb": {"start": readings[0], "most": max(readings), "end": memory(pid)},
        "left": await settled(url),
    }


def decoders(pid: int) -> list[int]:
    """The processes of a server that decode uploads."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                if b"decode_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


async def settled(url: str, patience: float = 60.0) -> dict[str, float]:
    """What is still worked on or waits, by the server's own count, as soon as it is nothing or after a minute."""
    end = time.perf_counter() + patience
    left: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as client:
        while True:
            text = (await client.get("/metrics")).text
            counts = [
                line.rsplit(" ", 1)
                for line in text.splitlines()
                if line.startswith(("myna_active", "myna_waiting"))
            ]
            left = {name: float(count) for name, count in counts}
            if not any(left.values()) or time.perf_counter() > end:
                return left
            await asyncio.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 8, 16, 64])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--soak", type=float)
    parser.add_argument("--transcribe", action="store_true")
    parser.add_argument("--beside", help="URL of another server, for transcription")
    parser.add_argument("--beside-model", default="Systran/faster-whisper-tiny.en")
    parser.add_argument("--no-overhead", action="store_true")
    parser.add_argument("--sentences", type=int, default=8, help="of which the overhead is the median")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with_home = asked.soak and importlib.util.find_spec("wyoming") is not None
    home = free_port() if with_home else None
    process, url = start(home)
    try:
        asyncio.run(load(url, process.pid, 1, 3.0))  # warm
        if asked.soak:
            found = asyncio.run(soak(url, process.pid, asked.soak, CAPACITY, home=home))
            time.sleep(15)  # the server gives memory back ten seconds after the last request
            print(json.dumps({**found, "memory_mb_15_s_later": memory(process.pid)}, indent=2))
            return
        print(
            "| clients | requests/s | first sound p50 (s) | p99 (s) | speech made (s/s) "
            "| processor seconds a second of it | memory (MB) | turned away |\n" + "| ---: " * 8 + "|",
            flush=True,
        )
        rows = []
        for n in asked.clients:
            row = asyncio.run(load(url, process.pid, n, asked.seconds))
            rows.append(row)
            print(
                f"| {row.clients} | {row.rate:.2f} | {row.first_p50:.2f} | {row.first_p99:.2f} | {row.speech:.2f} "
                f"| {row.processor:.2f} | {row.memory:.0f} | {row.refused} |",
                flush=True,
            )
        if asked.json:
            print(json.dumps([asdict(row) for row in rows], indent=2))
        if not asked.no_overhead:
            found = overhead(url, process.pid, asked.sentences)
            print(
                "a sentence through the server, and in Python: "
                f"first sound {found['server_first']:.3f} and {found['python_first']:.3f} s, "
                f"real-time factor {found['server_factor']:.3f} and {found['python_factor']:.3f}, "
                f"ratio {found['ratio']:.3f}; "
                f"processor seconds a second {found['server_processor']:.3f} and {found['python_processor']:.3f}, "
                f"ratio {found['processor_ratio']:.3f}"
            )
        if asked.transcribe:
            for name, where, model in (
                ("myna", url, "tiny.en"),
                ("beside", asked.beside, asked.beside_model),
            ):
                for n in (1, 4) if where else ():
                    speed, count = asyncio.run(transcription(where, n, asked.seconds, model))
                    print(f"transcription, {name}, {n} clients: {speed:.1f} s a second ({count} recordings)")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
