"""What `benchmarks/kernels.py` does on a GPU, on a CPU as far as that goes: kernels interpreted, nothing timed."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from myna.kernels.gpu.launch import INTERPRETED

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "kernels.py"


def script() -> Any:
    """The benchmark as a module; its own name is that of the package's folder of kernels."""
    spec = importlib.util.spec_from_file_location("benchmark_of_kernels", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(made)
    finally:
        sys.path[:] = path
    return made


kernels = script()
SMALL = (
    "pointer move",
    "sampling step",
    "RMSNorm, gate and up",
    "RMSNorm, QKV",
    "RMSNorm that is kept",
    "moves after a token",
)


@pytest.fixture
def on_a_cpu(monkeypatch) -> Any:
    """The paths of a GPU: what is timed is called once, what is captured is called."""

    def once(call, budget: float = 0.0) -> float:
        call()
        return 1.0

    def make(device, dtype, random=True):
        return real("cpu", dtype, random)

    real = kernels.Make
    monkeypatch.setattr(kernels, "Make", make)
    monkeypatch.setattr(kernels, "microseconds", once)
    monkeypatch.setattr(kernels, "captured", lambda call, times=10: call)
    monkeypatch.setattr(kernels, "count", lambda call, whole=False: 1)
    return kernels.Record(None, 1e9)


@pytest.mark.skipif(not INTERPRETED, reason="kernels are not interpreted")
@pytest.mark.parametrize("name", SMALL)
def test_cases_are_checked_and_timed(name, on_a_cpu):
    """In float32: the interpreter rounds bfloat16 in its own way."""
    torch.manual_seed(0)
    found = [case for case in kernels.cases() if case.name.startswith(name) and case.precision == "fp32"]
    assert found
    for case in found:
        with torch.no_grad():
            checked = kernels.check(case, "cpu")
            timed = kernels.time_case(case, (4e12, 7e14), on_a_cpu)
        assert checked["good"], checked
        assert set(timed["us"]) == {"fused", "fused graph", "eager", "eager graph"}
        assert timed["roofline_us"] > 0
    assert on_a_cpu.data["failed"] == []


@pytest.mark.skipif(not INTERPRETED, reason="kernels are not interpreted")
def test_a_wrong_kernel_is_found(on_a_cpu):
    """Also one that leaves its output as it was, in memory that another had used."""
    case = next(c for c in kernels.cases() if c.name.startswith("pointer move"))

    def idle(*inputs):
        places, spans = case.fused(*inputs)
        return torch.empty_like(places), spans

    wrong = kernels.Case(**{**vars(case), "fused": idle})
    assert not kernels.check(wrong, "cpu")["good"]
