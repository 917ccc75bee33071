"""`myna serve` under load: how soon the first sound is heard, how much is said, what it takes.

    python benchmarks/server.py                       # speech with 1, 4, 8, 16 and 64 clients, and the overhead
    python benchmarks/server.py --transcribe          # transcription, too; --beside URL for another server's
    python benchmarks/server.py --soak 600            # four times its capacity, clients that vanish, damaged uploads

The server runs in a process of its own, started here. Every client asks again as soon as it
has its answer. Latency counts from the request to the first byte of sound after the header.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
TEXTS = (
    "The morning train was late again, and nobody on the platform seemed to mind.",
    "She kept the letters in a wooden box under the window of the kitchen.",
    "Where the river turns, there is an old mill with a red door.",
    "We will meet at half past seven, in front of the museum.",
)
HEADER = 44  # bytes of a WAV header at least
RATE = 24_000


@dataclass(frozen=True)
class Row:
    """One measurement. first_p50, first_p99: seconds.   rate: requests a second.   speech: seconds of it a second.
    memory: MB of the server and its processes."""

    clients: int
    requests: int
    rate: float
    first_p50: float
    first_p99: float
    speech: float
    memory: float
    refused: int


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] if ordered else float("nan")


def memory(pid: int) -> float:
    """MB resident of a process and its children."""
    pids = [pid]
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        pids += [int(number) for number in child.read_text().split()]
    pages = 0
    for one in pids:
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def one_request(client: httpx.AsyncClient, text: str, seed: int) -> tuple[float, float] | None:
    """Seconds to the first sound and seconds of speech; None if it was turned away."""
    body = {"input": text, "voice": "nova", "response_format": "pcm", "seed": seed}
    began, first, n = time.perf_counter(), None, 0
    async with client.stream("POST", "/v1/audio/speech", json=body) as response:
        if response.status_code == 429:
            await response.aread()
            await asyncio.sleep(float(response.headers["retry-after"]) * random.uniform(0.5, 1))
            return None
        response.raise_for_status()
        async for part in response.aiter_bytes():
            first = first or time.perf_counter() - began
            n += len(part)
    assert first is not None
    return first, n / 2 / RATE


async def load(url: str, pid: int, n_clients: int, seconds: float) -> Row:
    done: list[tuple[float, float]] = []
    refused = 0
    most = 0.0
    end = time.perf_counter() + seconds
    began = time.perf_counter()

    async def work(number: int) -> None:
        nonlocal refused, most
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            turn = 0
            while time.perf_counter() < end:
                found = await one_request(client, TEXTS[(number + turn) % len(TEXTS)], 100 * number + turn)
                turn += 1
                most = max(most, memory(pid))
                if found is None:
                    refused += 1
                else:
                    done.append(found)

    await asyncio.gather(*(work(number) for number in range(n_clients)))
    took = time.perf_counter() - began
    firsts = [first for first, _ in done]
    return Row(
        n_clients,
        len(done),
        len(done) / took,
        percentile(firsts, 0.5),
        percentile(firsts, 0.99),
        sum(said for _, said in done) / took,
        most,
        refused,
    )


def start() -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "myna",
        "serve",
        "--port",
        str(port),
        "--no-page",
        "--model",
        "tiny.en",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(url + "/ready", timeout=5).status_code == 200:
                return process, url
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def overhead(url: str, n: int = 6) -> tuple[float, float]:
    """Seconds that a sentence takes through the server, and in Python, medians of n each, in turn."""
    from myna.tts.speaker import Speaker

    speaker = Speaker()
    voice = speaker.voice("nova")
    through, python = [], []
    with httpx.Client(base_url=url, timeout=600) as client:
        for i in range(n + 1):
            text = TEXTS[i % len(TEXTS)]
            began = time.perf_counter()
            body = {"input": text, "voice": "nova", "response_format": "pcm", "seed": i}
            said = len(client.post("/v1/audio/speech", json=body).content) / 2 / RATE
            through.append((time.perf_counter() - began) / said)
            began = time.perf_counter()
            speech = speaker.say(text, voice, seed=i)
            python.append((time.perf_counter() - began) / speech.seconds)
    return statistics.median(through[1:]), statistics.median(python[1:])


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


async def soak(url: str, pid: int, seconds: float) -> dict[str, object]:
    """Four times what is worked on at a time and waits, of every kind of client there is."""
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    expected: dict[int, bytes] = {}
    end = time.perf_counter() + seconds
    readings: list[float] = []
    speech = (ROOT / "tests" / "assets" / "speech.wav").read_bytes()

    async def say(client: httpx.AsyncClient, rng: random.Random) -> None:
        number = rng.randrange(4)
        body = {"input": TEXTS[number], "voice": "nova", "response_format": "pcm", "seed": number}
        answer = await client.post("/v1/audio/speech", json=body)
        statuses[f"speech {answer.status_code}"] += 1
        if answer.status_code == 200 and expected.setdefault(number, answer.content) != answer.content:
            wrong.append(f"text {number}: other samples than the first time")
        check(answer)

    def check(answer: httpx.Response) -> None:
        if answer.status_code != 200 and not answer.json()["error"]["message"]:
            wrong.append(f"{answer.status_code} without a sentence")
        if answer.status_code >= 500:
            wrong.append(f"{answer.status_code}: {answer.text[:200]}")

    async def vanish(client: httpx.AsyncClient, rng: random.Random) -> None:
        body = {"input": TEXTS[0] * 5, "voice": "nova", "response_format": "mp3"}
        async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
            statuses[f"vanish {answer.status_code}"] += 1
            async for _ in answer.aiter_bytes():
                if rng.random() < 0.3:
                    return

    async def hear(client: httpx.AsyncClient, rng: random.Random) -> None:
        data = speech if rng.random() < 0.5 else rng.randbytes(rng.randrange(1, 20_000))
        damaged = data is not speech
        answer = await client.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", data)}, data={"beam_size": "1"}
        )
        statuses[f"{'damaged' if damaged else 'recording'} {answer.status_code}"] += 1
        check(answer)

    async def read_slowly(client: httpx.AsyncClient, rng: random.Random) -> None:
        body = {"input": TEXTS[1], "voice": "nova", "response_format": "wav"}
        async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
            statuses[f"slow {answer.status_code}"] += 1
            async for _ in answer.aiter_bytes(512):
                await asyncio.sleep(0.02)

    async def work(number: int) -> None:
        rng = random.Random(number)
        kinds = (say, say, vanish, hear, read_slowly)
        while time.perf_counter() < end:
            async with httpx.AsyncClient(base_url=url, timeout=600) as client:
                try:
                    await kinds[number % len(kinds)](client, rng)
                except httpx.TransportError as error:
                    statuses[type(error).__name__] += 1
            readings.append(memory(pid))
            await asyncio.sleep(0.05)

    n_clients = 4 * 72
    await asyncio.gather(*(work(number) for number in range(n_clients)))
    await asyncio.sleep(2)
    text = httpx.get(url + "/metrics", timeout=30).text
    left = [line for line in text.splitlines() if line.startswith(("myna_active", "myna_waiting"))]
    return {
        "seconds": seconds,
        "clients": n_clients,
        "answers": dict(sorted(statuses.items())),
        "wrong": wrong[:20],
        "memory_mb": {"start": readings[0], "most": max(readings), "end": memory(pid)},
        "left": {line.split(" ")[0]: float(line.split(" ")[1]) for line in left},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16, 64])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--soak", type=float)
    parser.add_argument("--transcribe", action="store_true")
    parser.add_argument("--beside", help="URL of another server, for transcription")
    parser.add_argument("--beside-model", default="Systran/faster-whisper-tiny.en")
    parser.add_argument("--no-overhead", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    process, url = start()
    try:
        asyncio.run(load(url, process.pid, 1, 3.0))  # warm
        if asked.soak:
            print(json.dumps(asyncio.run(soak(url, process.pid, asked.soak)), indent=2))
            return
        rows = [asyncio.run(load(url, process.pid, n, asked.seconds)) for n in asked.clients]
        if asked.json:
            print(json.dumps([asdict(row) for row in rows], indent=2))
        print(
            "| clients | requests/s | first sound p50 (s) | p99 (s) | speech made (s/s) | memory (MB) | turned away |"
        )
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for row in rows:
            print(
                f"| {row.clients} | {row.rate:.2f} | {row.first_p50:.2f} | {row.first_p99:.2f} | {row.speech:.2f} "
                f"| {row.memory:.0f} | {row.refused} |"
            )
        if not asked.no_overhead:
            through, python = overhead(url)
            print(f"real-time factor of a sentence: {through:.3f} through the server, {python:.3f} in Python")
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
