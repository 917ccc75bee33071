"""The picture of docs/kernels.md: what is predicted for a GPU, and what was measured on this CPU in each precision.

    python benchmarks/kernel_plots.py --measure codecs.json      decodes in every precision, on this machine; minutes
    python benchmarks/kernel_plots.py [--cpu codecs.json] [-o docs/kernels.png]

Predicted: a step takes the greatest of its bytes over 4.3 TB/s, its operations over the H200's rate in its precision
(60 TFLOP/s in float32, 780 in bfloat16), and 2 us for each of its launches in a CUDA graph. Launches are those that the
fused decoder makes for chunks of one frame; a chunk of more frames makes as many. Nothing here has run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

FRAME_US = 20_000  # a frame of myna-24k
BANDWIDTH, RATES, LAUNCH_US = 4.3e12, {"float32": 60e12, "bfloat16": 780e12}, 2.0
LAUNCHES = 24  # of the fused decoder step of myna-24k (`benchmarks/kernels.py --predict`)
BYTES = {"float32": 4, "bfloat16": 2}
COLOURS = {"float32": "#1f4e79", "bfloat16": "#d1495b"}


def parameters() -> int:
    """Of myna-24k's decoder, without making it."""
    from myna.codec.myna import MynaCodec

    with torch.device("meta"):
        return sum(p.numel() for p in MynaCodec().decoder.parameters())


def predicted(n: int, precision: str, frames: int, batch: int, launches: int = LAUNCHES) -> float:
    """Microseconds of a decoder step; launches 0: of its bytes and operations alone. n: parameters, each of which takes
    part in about 1.5 products a frame (two blocks of three run at twice the frame rate)."""
    moved = n * BYTES[precision] + batch * frames * 480 * 4
    operations = 3 * n * frames * batch
    return max(1e6 * max(moved / BANDWIDTH, operations / RATES[precision]), LAUNCH_US * launches)


def measure(seconds: float) -> dict[str, Any]:
    """Decoding on this CPU, one thread: CPU seconds for a second of audio, and how far the sound is from float32's."""
    from myna.codec.base import Codes
    from myna.codec.dac import DAC, DAC_24K
    from myna.codec.encodec import Encodec
    from myna.codec.precision import set_precision
    from myna.codec.registry import load_codec
    from myna.kernels.bf16 import is_native
    from myna.kernels.precision import processor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, Any] = {"processor": str(processor()), "bf16": is_native(), "codecs": {}}
    makers = {
        "myna-24k": lambda: load_codec("myna-24k"),
        "EnCodec 24 kHz": lambda: Encodec().eval(),
        "DAC 24 kHz": lambda: DAC(DAC_24K).eval(),
    }
    for name, make in makers.items():
        codec = make()
        n = max(4, round(seconds * float(codec.frame_rate) * (0.1 if name.startswith("DAC") else 1)))
        codes = Codes(torch.randint(codec.codebook_size, (1, 8, n)), n * codec.frame_size)
        exact, rows = None, {}
        for precision in ("float32", "bf16", "int8"):
            set_precision(codec, precision)
            wav = codec.decode(codes)
            took = float("inf")
            for _ in range(2):
                begun = time.process_time()
                wav = codec.decode(codes)
                took = min(took, time.process_time() - begun)
            exact = wav if exact is None else exact
            off = float((wav - exact).square().sum() / exact.square().sum())
            rows[precision] = {
                "cpu_s_per_s": took * codec.sample_rate / codes.n_samples,
                "db": round(10 * torch.tensor(off).log10().item(), 1) if off else None,
            }
            print(name, precision, rows[precision], flush=True)
        found["codecs"][name] = rows
    return found


def draw(cpu: dict[str, Any] | None, out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = parameters()
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    chunk, streams, bars = figure.subplots(1, 3)
    sizes = [1, 2, 4, 8, 16, 32, 64]
    batches = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for precision, colour in COLOURS.items():
        style = "-" if precision == "float32" else "--"
        chunk.plot(
            [20 * size for size in sizes],
            [predicted(n, precision, size, 1) / size for size in sizes],
            marker="o", color=colour, label=precision, linestyle=style,
        )  # fmt: skip
        floor = [predicted(n, precision, size, 1, 0) / size for size in sizes]
        chunk.plot(
            [20 * size for size in sizes], floor, color=colour, linestyle=":", label=f"{precision}, without launches"
        )  # fmt: skip
        streams.plot(
            batches,
            [batch * FRAME_US / predicted(n, precision, 1, batch) for batch in batches],
            marker="o", color=colour, label=precision, linestyle=style,
        )  # fmt: skip
    chunk.set(
        xscale="log", yscale="log", xlabel="chunk (ms of audio)", ylabel="us a frame (20 ms)",
        title="myna-24k decoder step on an H200: PREDICTED",
    )  # fmt: skip
    streams.set(
        xscale="log", yscale="log", xlabel="streams in a batch", ylabel="streams served in real time",
        title="frame by frame, one graph: PREDICTED",
    )  # fmt: skip
    if cpu is None:
        bars.set_axis_off()
    else:
        names = list(cpu["codecs"])
        for i, precision in enumerate(("float32", "bf16", "int8")):
            rows = [cpu["codecs"][name][precision] for name in names]
            places = [at + 0.27 * (i - 1) for at in range(len(names))]
            drawn = bars.bar(places, [1 / row["cpu_s_per_s"] for row in rows], 0.25, label=precision)
            labels = ["" if row["db"] is None else f"{row['db']:.0f} dB" for row in rows]
            bars.bar_label(drawn, labels, fontsize=7)
        bars.set_xticks(range(len(names)), names)
        how = "multiplied by the processor" if cpu["bf16"] else "emulated: this processor has none"
        bars.set(
            yscale="log", ylabel="decoding, x real time, one thread",
            title=f"measured on {cpu['processor'].split(' (')[0]}\n(bf16 {how})",
        )  # fmt: skip
    for axes in (chunk, streams, bars):
        axes.grid(True, which="major", alpha=0.3)
        axes.title.set_fontsize(9)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    figure.savefig(out, dpi=110)
    print(f"{out}: drawn on {platform.machine()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", type=Path, help="measure this CPU, and write this file")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of audio that is decoded; a tenth for DAC"
    )
    parser.add_argument("--cpu", type=Path, help="what --measure wrote")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/kernels.png"))
    args = parser.parse_args()
    if args.measure:
        args.measure.write_text(json.dumps(measure(args.seconds), indent=1))
        return
    draw(json.loads(args.cpu.read_text()) if args.cpu else None, args.output)


if __name__ == "__main__":
    main()
