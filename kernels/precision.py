"""Which arithmetic a model's products are done in: asked of the processor once, here and nowhere else.

    float32    as the models were trained
    bf16       inputs and weights of large products in 8 significant bits, sums in float32 (`kernels.bf16`)
    int8       weights in 8 bits, inputs as they come (`kernels.int8`)
    auto       for each kind of work the first of these that is known not to be slower here (`WORKS`)

What auto may choose is a table: float32 where results must not change. Whether bf16 pays is measured when it is first
asked, on the shapes of the work, and only on processors that have instructions for it, where it takes a few
hundredths of a second; everybody else gets what they had before. On the processors that were measured (docs/log.md)
bf16 is two to five times as fast and the margin is a third, so that it does not come out otherwise every time.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from ..errors import UsageError
from . import bf16
from .conv1d import PackedMatrix
from .int8 import int8_engine

Precision = Literal["float32", "bf16", "int8"]
PRECISIONS = ("auto", "float32", "bf16", "int8")
_MARGIN = 1.33  # times faster than float32 that bf16 must be to be chosen


@dataclass(frozen=True)
class Processor:
    """What this machine computes with. instructions: those that matter here, the most powerful last; amx_bf16,
    avx512_bf16 and avx512_vnni are matrix instructions of 16 and 8 bits."""

    name: str
    instructions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.instructions) or 'no vector instructions that are known'})"


@dataclass(frozen=True)
class Work:
    """A kind of work. order: what auto tries, the best first.   shape: (rows, inputs, outputs) of its typical product,
    on which bf16 is measured."""

    order: tuple[Precision, ...]
    shape: tuple[int, int, int]


WORKS: dict[str, Work] = {
    # Codes decide what a file holds, so that another machine's must be the same.
    "codec encoder": Work(("float32",), (400, 1344, 192)),
    "codec decoder": Work(("bf16", "float32"), (400, 1344, 192)),
    # One frame at a time a model is as slow as its weights are long in memory.
    "speech model": Work(("int8", "float32"), (3, 320, 1280)),
    "speech decoder": Work(("bf16", "float32"), (32, 256, 768)),
    # Texts are openai-whisper's own, except for models that are too slow otherwise.
    "whisper": Work(("float32",), (1500, 384, 1536)),
    "large whisper": Work(("int8", "float32"), (1500, 1024, 4096)),
}

_FLAGS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "asimd", "bf16"
)  # fmt: skip


@cache
def processor() -> Processor:
    """This machine's, as its system describes it."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = set(value.split())
    except OSError:  # not Linux: what torch knows
        level = torch.backends.cpu.get_cpu_capability().lower()
        flags = {"avx2": {"avx2"}, "avx512": {"avx2", "avx512f"}}.get(level, set())
    return Processor(name, tuple(flag for flag in _FLAGS if flag in flags))


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for it, so that it may pay at all: oneDNN also runs bf16 on AVX-512
    without them, five times slower than float32."""
    return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(processor().instructions)) and bf16.is_native()


@cache
def bf16_gain(rows: int, inputs: int, outputs: int) -> float:
    """How many times faster than float32 a product is in bf16, roundings included; 0 without instructions for it.
    Measured once a process and shape."""
    if not multiplies_bf16():
        return 0.0
    with torch.inference_mode(False), torch.no_grad():
        x, weight = torch.randn(rows, inputs), torch.randn(inputs, outputs)
        wide, narrow = PackedMatrix(weight), bf16.Bf16Matrix(weight)
        return _seconds(lambda: wide.product(x)) / _seconds(lambda: narrow.product(x))


def _seconds(call: Callable[[], object], budget: float = 0.02) -> float:
    """The least of several calls: what else the machine does only adds to it."""
    call()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end or best == float("inf"):
        begun = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begun)
    return best


def check_precision(precision: str, device: str | torch.device = "cpu") -> None:
    """Raises UsageError for a precision that there is not, or not on this device."""
    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}; choose {', '.join(PRECISIONS)}")
    kind = _kind(device)
    if precision in ("bf16", "int8") and kind != "cpu":
        raise UsageError(f"{precision} is for CPUs, not for {kind}; choose float32")
    if precision == "int8" and int8_engine() is None:
        raise UsageError("this build of torch has no products in 8 bits; choose float32")


def _kind(device: str | torch.device) -> str:
    """cpu, cuda, ...: a device that there is not is refused by whoever puts a model there."""
    return str(device).partition(":")[0]


def choose(requested: str, work: str, device: str | torch.device = "cpu") -> Precision:
    """The precision of a kind of work, a key of WORKS: what was asked for, or for auto the first of its table that is
    not slower than float32 here. Raises UsageError as `check_precision`."""
    check_precision(requested, device)
    if requested != "auto":
        return requested  # pyright: ignore[reportReturnType]
    if _kind(device) != "cpu":
        return "float32"
    return next(precision for precision in WORKS[work].order if _pays(precision, WORKS[work]))


def _pays(precision: Precision, work: Work) -> bool:
    if precision == "bf16":
        return bf16_gain(*work.shape) >= _MARGIN
    return precision == "float32" or int8_engine() is not None


def chosen_here() -> dict[str, Precision]:
    """What auto stands for on this machine, by kind of work."""
    return {work: choose("auto", work) for work in WORKS}
