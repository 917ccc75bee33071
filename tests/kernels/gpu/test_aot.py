"""Kernels compile for GPUs that are not here, into registers alone, with tensor cores where they are claimed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from myna.kernels.gpu import launch
from myna.kernels.gpu.launch import capability_of, compiled_for, overlap, overlapping

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "kernels.py"
BOTH = ("sm_80", "sm_90")


@pytest.mark.parametrize(
    ("only", "matrix", "targets"),
    [
        ("residual unit, step C64", {"residual_unit"}, BOTH),
        ("sampling step", set(), BOTH),
        # What holds most registers before Hopper: DAC's widest unit over many frames, and a wide convolution.
        ("residual unit, whole C192 T8192", {"residual_unit"}, ("sm_80",)),
        ("convolution, whole C384", {"causal_conv"}, ("sm_80",)),
    ],
)
def test_no_spills(only, matrix, targets, tmp_path):
    out = tmp_path / "compiled.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [
        sys.executable,
        str(SCRIPT),
        "--compile-only",
        "--json",
        str(out),
        "--only",
        only,
        "--workers",
        "1",
        "--targets",
        *targets,
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    reports = json.loads(out.read_text())
    assert {r["target"] for r in reports} == set(targets)
    for r in reports:
        assert r["spills"] == 0, r
        assert r["stack"] <= 8, r  # Triton 3.9 reserves 8 bytes in one kernel that nothing reads or writes
        assert 0 < r["registers"] <= 255
    half = [r for r in reports if r["name"] in matrix]
    assert not matrix or any(r["tensor_cores"] > 0 for r in half)


def test_launches_are_those_of_the_gpu_that_is_compiled_for():
    like = torch.zeros(1)
    assert capability_of(like) == (9, 0)
    with compiled_for((8, 0)):
        assert capability_of(like) == (8, 0)
    assert capability_of(like) == (9, 0)


def test_launches_overlap_from_hopper_on(monkeypatch):
    """Before, the instruction that they need cannot be assembled."""
    monkeypatch.setattr(launch, "INTERPRETED", False)
    for capability, expected in (((8, 0), False), ((8, 9), False), ((9, 0), True)):
        with compiled_for(capability), overlapping():
            assert overlap()["PDL"] is expected
        with compiled_for(capability):
            assert not overlap()["PDL"]
