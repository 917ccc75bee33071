"""Our EnCodec and DAC beside the implementations that published them: the same random weights, the same
audio, in one run, taking turns.

    python benchmarks/codec.py [--seconds 10] [--threads 1 2] [--repeats 5] [--models encodec dac] [--precision float32]

Whole file: encode and decode in one call. Streaming: 20 ms chunks; the published code has no streaming, so
what it would take is one call a chunk, which is what is timed there (without the context that its output
would need).
Prints medians in milliseconds for a second of audio, and the ratio reference / ours.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import references  # noqa: F401  (before encodec)
import torch
from encodec import EncodecModel
from myna.codec import Codec, Codes
from myna.codec.precision import set_precision
from myna.codec.registry import load_codec


def medians(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of each, measured in turns so that a busy machine slows both."""
    first(), second()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, times in zip((first, second), taken, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


def report(name: str, threads: int, seconds: float, times: tuple[float, float]) -> None:
    reference, ours = (1000 * t / seconds for t in times)
    print(
        f"{name:34} {threads} threads  reference {reference:8.1f} ms/s ({1000 / reference:5.1f}x real time)  "
        f"ours {ours:8.1f} ms/s ({1000 / ours:5.1f}x)   ratio {reference / ours:5.2f}",
        flush=True,
    )


def turned(codec: Codec, precision: str, codes: Codes) -> None:
    """Change the precision of our products, and say what it costs."""
    exact = codec.decode(codes).double()
    chosen = set_precision(codec, precision)
    error = (codec.decode(codes) - exact).square().sum() / exact.square().sum()
    print(
        f"{codec.name}: encoder {chosen.encoder}, decoder {chosen.decoder}, "
        f"{10 * float(torch.log10(error.clamp(min=1e-20))):.0f} dB from float32"
    )


def stream_encode(codec: Codec, wav: torch.Tensor, chunk: int) -> None:
    stream = codec.encoder_stream(n_codebooks=8)
    for start in range(0, wav.shape[-1], chunk):
        stream.push(wav[..., start : start + chunk])
    stream.flush()


def stream_decode(codec: Codec, codes: torch.Tensor) -> None:
    stream = codec.decoder_stream()
    for t in range(codes.shape[-1]):
        stream.push(codes[..., t : t + 1])
    stream.flush()


def encodec(args: argparse.Namespace, folder: Path) -> None:
    reference = EncodecModel.encodec_model_24khz(pretrained=False)
    reference.set_target_bandwidth(6.0)
    for index, layer in enumerate(reference.quantizer.vq.layers):
        layer._codebook.embed.normal_(0, 0.3 * 0.9**index)
        layer._codebook.inited.fill_(1)
    torch.save(reference.state_dict(), folder / "encodec.th")
    codec = load_codec(folder / "encodec.th")
    wav = 0.1 * torch.randn(1, 1, int(args.seconds * 24_000))
    short, chunk = wav[..., : 2 * 24_000], 480
    frames, codes = reference.encode(wav), codec.encode(wav, 8)
    few = codes.codes[..., :150]
    assert torch.equal(frames[0][0], codes.codes)
    theirs = reference.decode(frames)[..., : wav.shape[-1]]
    print(f"encodec-24k: codes identical, audio within {(theirs - codec.decode(codes)).abs().max():.1e}")
    turned(codec, args.precision, codes)
    for threads in args.threads:
        torch.set_num_threads(threads)
        whole = [
            ("encode", lambda: reference.encode(wav), lambda: codec.encode(wav, 8)),
            ("decode", lambda: reference.decode(frames), lambda: codec.decode(codes)),
        ]
        for name, theirs, ours in whole:
            report(
                f"encodec-24k {name}, whole file", threads, args.seconds, medians(theirs, ours, args.repeats)
            )

        def encode_chunks() -> None:
            for start in range(0, short.shape[-1], chunk):
                reference.encode(short[..., start : start + chunk])

        def decode_frames() -> None:
            for t in range(few.shape[-1]):
                reference.decode([(few[..., t : t + 1], None)])

        times = medians(encode_chunks, lambda: stream_encode(codec, short, chunk), args.repeats)
        report("encodec-24k encode, 20 ms chunks", threads, 2, times)
        times = medians(decode_frames, lambda: stream_decode(codec, few), args.repeats)
        report("encodec-24k decode, frame by frame", threads, 2, times)


def dac(args: argparse.Namespace, folder: Path) -> None:
    from transformers import DacConfig, DacModel

    for name, rates, rate, n_codebooks in (
        ("dac-24k", [2, 4, 5, 8], 24_000, 32),
        ("dac-44k", [2, 4, 8, 8], 44_100, 9),
    ):
        reference = DacModel(
            DacConfig(downsampling_ratios=rates, sampling_rate=rate, n_codebooks=n_codebooks)
        ).eval()
        reference.save_pretrained(folder / name)
        codec, seconds = load_codec(folder / name), min(args.seconds, 2.0)
        n = int(seconds * rate) // codec.frame_size * codec.frame_size
        wav = 0.1 * torch.randn(1, 1, n)
        codes = codec.encode(wav, 8)
        turned(codec, args.precision, codes)
        for threads in args.threads:
            torch.set_num_threads(threads)
            repeats = min(args.repeats, 3)
            times = medians(partial(reference.encode, wav, 8), partial(codec.encode, wav, 8), repeats)
            report(f"{name} encode, whole file", threads, seconds, times)
            theirs = partial(reference.decode, audio_codes=codes.codes)
            report(
                f"{name} decode, whole file",
                threads,
                seconds,
                medians(theirs, partial(codec.decode, codes), repeats),
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the audio")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="float32", help="of ours: auto, float32 or bf16")
    parser.add_argument("--models", nargs="+", choices=["encodec", "dac"], default=["encodec", "dac"])
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name in args.models:
            {"encodec": encodec, "dac": dac}[name](args, Path(folder))


if __name__ == "__main__":
    main()
