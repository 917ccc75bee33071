"""Our Whisper beside openai-whisper and faster-whisper: the same weights and recordings, in one run, taking turns.

    python benchmarks/asr.py [CORPUS.tar] [--limit 20] [--threads 2] [--repeats 3] [--beam-size 1 5] [--model tiny.en]

Every recogniser lives in a process of its own with the same number of threads, loads, hears one recording to warm up,
and then all recordings, one after the other; "together" is `transcribe_many`, which decodes eight recordings at once.
Printed: the median over the rounds of seconds of audio for a second of work, the memory that the process came to, the
word error rate against the corpus's text, and on how many recordings the words are openai-whisper's. Temperature 0, no
higher ones, so that all do the same work. Without a corpus: the recordings of the tests, where openai-whisper's words
are the text.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).resolve().parent.parent / "tests" / "assets" / "asr"
REFERENCE = "openai-whisper"
SYSTEMS = (REFERENCE, "faster-whisper", "myna", "myna, together")
SYSTEMS_INT8 = ("faster-whisper-int8", "myna-int8", "myna-int8, together")
TOGETHER = ", together"


def listener(
    system: str, model: str, beam_size: int, threads: int
) -> Callable[[Sequence[np.ndarray]], list[str]]:
    """What turns recordings (N,) at 16 kHz into texts."""
    from myna.evaluation.asr.systems import SYSTEMS as KNOWN
    from myna.evaluation.asr.systems import Setup

    if not system.endswith(TOGETHER):
        known = KNOWN[system]
        listen = known.load(Setup(known.find(model), beam_size, threads=threads))
        return lambda wavs: [listen(wav) for wav in wavs]

    import torch
    from myna.asr.transcribe import transcribe_many
    from myna.asr.transcriber import Transcriber

    torch.set_num_threads(threads)
    transcriber = Transcriber(model, precision="int8" if "int8" in system else "float32")
    options = transcriber.options(
        language="en", temperature=0.0, beam_size=None if beam_size == 1 else beam_size, best_of=None
    )
    return lambda wavs: [found.text for found in transcribe_many(transcriber.model, wavs, options)]


def work(
    pipe: Connection, system: str, model: str, beam_size: int, threads: int, wavs: list[np.ndarray]
) -> None:
    """A process: answers each "go" with seconds and texts, and "stop" with its peak memory in bytes."""
    listen = listener(system, model, beam_size, threads)
    listen(wavs[:1])
    pipe.send(None)
    while pipe.recv() == "go":
        start = time.perf_counter()
        texts = listen(wavs)
        pipe.send((time.perf_counter() - start, texts))
    status = Path("/proc/self/status").read_text()
    pipe.send(next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")))


def recordings(corpus: str | None, limit: int) -> tuple[list[np.ndarray], list[str] | None]:
    """Samples (N,) at 16 kHz, and what they say where that is known."""
    from myna.data.audio import read_audio
    from myna.evaluation.clips import load_clips

    if corpus is None:
        files = sorted(ASSETS.glob("*.opus"))[:limit]
        return [read_audio(file, 16_000, mono=True).samples[0] for file in files], None
    clips = [clip for clip in load_clips([corpus], 16_000, limit=limit) if clip.text]
    return [np.asarray(clip.wav, np.float32) for clip in clips], [clip.text or "" for clip in clips]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", nargs="?")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--beam-size", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--system", nargs="+", default=[*SYSTEMS, *SYSTEMS_INT8])
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)

    from myna.evaluation.measures.intelligibility import normalizer, word_errors, words

    wavs, said = recordings(args.corpus, args.limit)
    seconds = sum(map(len, wavs)) / 16_000
    print(f"{len(wavs)} recordings, {seconds:.0f} s, {args.model}, {args.threads} threads\n")
    print("| recogniser | beams | x real time | of openai-whisper | MB | WER % | same words |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    simple = normalizer().apply
    context = get_context("spawn")
    for beam_size in args.beam_size:
        pipes: dict[str, Connection] = {}
        for system in args.system:
            here, there = context.Pipe()
            job = (there, system, args.model, beam_size, args.threads, wavs)
            context.Process(target=work, args=job, daemon=True).start()
            pipes[system] = here
            here.recv()
        times: dict[str, list[float]] = {system: [] for system in pipes}
        texts: dict[str, list[str]] = {}
        for _ in range(args.repeats):
            for system, pipe in pipes.items():
                pipe.send("go")
                taken, texts[system] = pipe.recv()
                times[system].append(taken)
        reference = texts.get(REFERENCE)
        truth = [simple(text) for text in (said or reference or next(iter(texts.values())))]
        n_words = sum(len(words(text)) for text in truth)
        speeds = {system: seconds / statistics.median(taken) for system, taken in times.items()}
        for system, pipe in pipes.items():
            pipe.send("stop")
            heard = [simple(text) for text in texts[system]]
            errors = sum(word_errors(a, b) for a, b in zip(truth, heard, strict=True))
            same = sum(a == simple(b) for a, b in zip(heard, reference, strict=True)) if reference else None
            ratio = f"{speeds[system] / speeds[REFERENCE]:.2f}" if REFERENCE in speeds else ""
            print(
                f"| {system} | {beam_size} | {speeds[system]:.1f} | {ratio} | {pipe.recv() / 1e6:.0f} | "
                f"{100 * errors / n_words:.1f} | {'' if same is None else f'{same} of {len(heard)}'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
