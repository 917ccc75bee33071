"""What the Triton kernels share: whether they run here, and the mathematics that Triton's own would spill for.

Kernels run on an NVIDIA GPU. On a CPU they run only under TRITON_INTERPRET=1, one program after another, which is how
they are tested where no GPU is; no model asks for that (`supports` says no). The interpreter multiplies bfloat16 as if
it were integers (triton 3.6 to 3.9), so kernels take a constant UP, with which they go to float32 first.
MYNA_KERNELS=off turns all of them off: the PyTorch references, which stand beside them, take over.
Where Triton is not installed the modules can still be imported, and nothing is supported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:  # kernels are a language of their own, which type checkers do not know
    triton: Any = None
    HAS_TRITON: bool = False

    class tl(Any):  # noqa: N801
        constexpr: TypeAlias = Any

else:
    try:
        import triton
        import triton.language as tl

        HAS_TRITON = True
    except ImportError:
        HAS_TRITON = False
        triton = SimpleNamespace(jit=lambda function: function)
        tl = SimpleNamespace(constexpr=int)

INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def runs_on(*tensors: Tensor) -> bool:
    """Whether Triton kernels may be used for these tensors: all on the current GPU, of a floating type that they
    know, and no user who has turned them off."""
    if not HAS_TRITON or os.environ.get("MYNA_KERNELS", "on").lower() in ("off", "0", "false"):
        return False
    first = tensors[0].device
    if any(t.device != first for t in tensors) or any(
        t.is_floating_point() and t.dtype not in DTYPES for t in tensors
    ):
        return False
    if INTERPRETED or first.type != "cuda":
        return False
    # Triton launches on the current device, wherever the tensors are.
    return first.index == torch.cuda.current_device() and torch.cuda.get_device_capability(first) >= (8, 0)


_compiled_for: tuple[int, int] | None = None


@contextmanager
def compiled_for(capability: tuple[int, int]) -> Iterator[None]:
    """Choose tiles as for a GPU of this compute capability, which need not be here (`aot`)."""
    global _compiled_for
    before, _compiled_for = _compiled_for, capability
    try:
        yield
    finally:
        _compiled_for = before


def capability_of(tensor: Tensor) -> tuple[int, int]:
    """The compute capability of the GPU that a kernel for this tensor is launched on; without one, Hopper's."""
    if _compiled_for is not None:
        return _compiled_for
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else (9, 0)


_overlapping = False


@contextmanager
def overlapping(on: bool = True) -> Iterator[None]:
    """Let the kernels of streaming steps start while the one before still ends, and ask for their weights meanwhile
    (programmatic dependent launch; from compute capability 9.0 on). Whatever another kernel wrote is read only after
    that has ended."""
    global _overlapping
    before, _overlapping = _overlapping, on
    try:
        yield
    finally:
        _overlapping = before


def overlap() -> dict[str, Any]:
    """The options of a launch that overlapping asks for; none on a GPU that knows no such launches."""
    return {"PDL": True, "launch_pdl": True} if _overlapping and _may_overlap() else {"PDL": False}


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def divide_up(n: int, by: int) -> int:
    return -(-n // by)


@triton.jit
def let_next_start(PDL: tl.constexpr):
    """The next kernel may take its place on the GPU."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_last(PDL: tl.constexpr):
    """What the kernels before have written can be read from here on."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def sine_squared(y):
    """sin(y)^2, to the last bits of float32 for |y| up to some thousands, in registers alone (tl.sin keeps a table in
    local memory for its range reduction)."""
    turns = tl.floor(y * 0.3183098861837907 + 0.5)
    angle = (y - turns * 3.140625) - turns * 9.676535897932795e-4
    z = angle * angle
    p = -2.5050759689e-8 + z * 1.6059043837e-10
    p = 2.7557319224e-6 + z * p
    p = -1.9841269841e-4 + z * p
    p = 8.3333333333e-3 + z * p
    p = -1.6666666667e-1 + z * p
    s = angle + angle * z * p
    return s * s


@triton.jit
def sine_of_double(y):
    """sin(2 y), likewise."""
    turns = tl.floor(y * 0.3183098861837907 + 0.5)
    angle = (y - turns * 3.140625) - turns * 9.676535897932795e-4
    z = angle * angle
    p = -2.5050759689e-8 + z * 1.6059043837e-10
    p = 2.7557319224e-6 + z * p
    p = -1.9841269841e-4 + z * p
    p = 8.3333333333e-3 + z * p
    p = -1.6666666667e-1 + z * p
    s = angle + angle * z * p
    q = 2.0876756988e-9 - z * 1.1470745598e-11
    q = -2.7557319224e-7 + z * q
    q = 2.4801587302e-5 + z * q
    q = -1.3888888889e-3 + z * q
    q = 4.1666666667e-2 + z * q
    q = -0.5 + z * q
    return 2.0 * s * (1.0 + z * q)


@triton.jit
def snake_of(x, alpha):
    """x + sin(alpha x)^2 / alpha in float32, with DAC's 1e-9."""
    return x + sine_squared(x * alpha) / (alpha + 1e-9)


def _may_overlap() -> bool:
    """Before Hopper there is no instruction for it, and kernels that ask for one are not even assembled."""
    if INTERPRETED:
        return False
    if _compiled_for is None and torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (9, 0)
    return (_compiled_for or (9, 0)) >= (9, 0)
