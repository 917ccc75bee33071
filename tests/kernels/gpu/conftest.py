"""Kernels on small shapes, in Triton's interpreter on a CPU, or with TRITON_INTERPRET=0 on a GPU.

Inputs and outputs lie between guard bands of NaN: a kernel that reads beyond its tensors gives NaN, one that writes
there is found, and so is one that leaves a part of its output as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton, which interprets the kernels, is not installed")

import torch
from myna.kernels.gpu.launch import INTERPRETED
from torch import Tensor

BAND = 64  # numbers before and after; a multiple of 16 bytes, as CUDA's memory is


class Guard:
    """Tensors between bands of NaN (of -2^30 where they hold whole numbers)."""

    def __init__(self, device: str):
        self.device, self._kept = device, []

    def __call__(self, tensor: Tensor) -> Tensor:
        inside = self.empty(tensor.shape, tensor.dtype)
        return inside.copy_(tensor)

    def empty(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        n = torch.Size(shape).numel()
        store = torch.zeros(n + 2 * BAND, dtype=dtype, device=self.device)
        store.fill_(float("nan") if dtype.is_floating_point else -(2**30))
        self._kept.append((store, n))
        return store[BAND : BAND + n].view(shape)

    def check(self) -> None:
        for store, n in self._kept:
            for band in (store[:BAND], store[BAND + n :]):
                whole = band.isnan() if band.is_floating_point() else band == -(2**30)
                assert bool(whole.all()), "a kernel has written beyond its output"


@pytest.fixture
def device() -> str:
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("there is no GPU, and TRITON_INTERPRET is 0")
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture
def guard(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """Guards what tests give it, and what operations allocate."""
    made, real = Guard(device), torch.Tensor.new_empty

    def new_empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        if options:  # the interpreter's own
            return real(like, *shape, dtype=dtype or like.dtype, **options)
        return made.empty(torch.Size(shape), dtype or like.dtype)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch, "empty_like", lambda like: made.empty(like.shape, like.dtype))
    yield made
    made.check()


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def close(dtype: torch.dtype) -> Callable[[Tensor, Tensor], None]:
    """Whether a result is within the rounding of its dtype of one in float64. The interpreter cuts bfloat16 off where a
    GPU rounds, so it may be twice as far."""

    def check(result: Tensor, exact: Tensor) -> None:
        assert (result.dtype, exact.dtype) == (dtype, torch.float64)
        error = float(
            (result.detach().double().cpu() - exact.detach().cpu()).norm() / exact.detach().cpu().norm()
        )
        assert error < (2e-6 if dtype == torch.float32 else 1.2e-2), f"relative error {error:.1e}"

    return check


def doubled(value: Any) -> Any:
    """float64, dataclasses of tensors too."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(*(doubled(getattr(value, name)) for name in value.__dataclass_fields__))
    return value
