"""What Triton's compiler makes of the kernels for a GPU that is not here: registers, shared memory, spills, stack.

Operations are run on CPU tensors with their launches recorded instead of made, so that what is compiled is what the
models launch, with the constants that they choose. ptxas and cuobjdump come with Triton's wheel. What was found is
kept beside Triton's own cache (TRITON_CACHE_DIR, or ~/.triton/cache), so that a run that was cut short goes on.

>>> with recorded("sm_90") as launches:
...     snake(x, alpha)
>>> report(launches[0], "sm_90").registers
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .launch import HAS_TRITON, INTERPRETED, compiled_for

TARGETS = {"sm_80": 80, "sm_90": 90}
_TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64", torch.int64: "i64",
    torch.int32: "i32", torch.int8: "i8", torch.bool: "i1",
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """A kernel, the types of its arguments, and its constants."""

    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[int, ...]
    num_warps: int
    num_stages: int
    overlapping: bool = False

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__.removesuffix("_kernel")

    @property
    def key(self) -> tuple[object, ...]:
        return (
            self.name, *self.signature.items(), *self.constants.items(), self.aligned, self.num_warps,
            self.num_stages, self.overlapping,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """The product of its constants: what a program holds at once, and so what may spill, grows with it."""
        return prod(n for n in self.constants.values() if type(n) is int and n > 1)


@dataclass(frozen=True)
class Report:
    """What was compiled. spills: loads and stores of local memory in the machine code.   tensor_cores: matrix
    instructions (HMMA; HGMMA on Hopper).   instructions: all of them."""

    name: str
    target: str
    registers: int
    shared: int
    spills: int
    stack: int
    tensor_cores: int
    instructions: int
    num_warps: int


def available() -> bool:
    """Whether kernels can be compiled here: Triton is installed, and its interpreter is not on."""
    return HAS_TRITON and not INTERPRETED


@contextmanager
def recorded(target: str = "sm_90") -> Iterator[list[Launch]]:
    """Launches are listed, not made, with the constants that are chosen for `target`, a key of TARGETS; what they would
    have written stays as it was."""
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(_launch(self, args, options))

    real, JITFunction.run = JITFunction.run, run
    try:
        with compiled_for(divmod(TARGETS[target], 10)):
            yield launches
    finally:
        JITFunction.run = real


def _launch(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    """Specialised as Triton does at a launch: a 1 is a constant, multiples of 16 are known to be."""
    warps, stages = options.pop("num_warps", 4), options.pop("num_stages", 3)
    overlapping = options.pop("launch_pdl", False)
    given = dict(zip(kernel.arg_names, args, strict=False)) | options
    signature, constants, aligned = {}, {}, []
    for index, name in enumerate(kernel.arg_names):
        value = given[name]
        if kernel.params[index].is_constexpr or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
            aligned.append(index)
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                aligned.append(index)
    return Launch(kernel, signature, constants, tuple(aligned), warps, stages, overlapping)


def representative(launches: Iterable[Launch]) -> list[Launch]:
    """Of every kernel, in each combination of types, the launch that holds most: what is likeliest to spill."""
    largest: dict[tuple[object, ...], Launch] = {}
    for launch in launches:
        kind = launch.name, *sorted(set(launch.signature.values()))
        if kind not in largest or launch.size > largest[kind].size:
            largest[kind] = launch
    return list(largest.values())


def report(launch: Launch, target: str) -> Report:
    """What becomes of a launch on `target`, a key of TARGETS: compiled now, or by this version of Triton before."""
    import triton

    told = json.dumps(
        [triton.__version__, target, launch.kernel.cache_key, repr(launch.key), sorted(TARGETS.items())]
    )
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache") / "myna-reports"
    kept = folder / f"{hashlib.sha256(told.encode()).hexdigest()}.json"
    try:
        return Report(**json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):
        found = _compile(launch, target)
    folder.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(asdict(found)))
    part.replace(kept)
    return found


def _compile(launch: Launch, target: str) -> Report:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    # In the form that a launch gives them, so that what is compiled here is found in the cache there.
    known = [["tt.divisibility", 16]]
    attributes = {
        (index,): known if index in launch.aligned else []
        for index, kind in enumerate(launch.signature.values())
        if kind not in ("constexpr", "fp32")
    }
    source = ASTSource(
        fn=launch.kernel, signature=launch.signature, constexprs=launch.constants, attrs=attributes
    )
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    if launch.overlapping:
        options["launch_pdl"] = True
    made: Any = triton.compile(source, target=GPUTarget("cuda", TARGETS[target], 32), options=options)
    tool = str(Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "--dump-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump did not say what {launch.name} uses; it wrote: {usage[:200]}")
    operations = re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", sass)
    return Report(
        launch.name,
        target,
        int(found[1]),
        made.metadata.shared,
        sum(operation in ("LDL", "STL") for operation in operations),
        int(found[2]),
        sum(operation in ("HMMA", "HGMMA") for operation in operations),
        len(operations),
        launch.num_warps,
    )
