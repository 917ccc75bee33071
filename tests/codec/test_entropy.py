"""Entropy coding: exact in both directions, layered, and the same bytes wherever it runs."""

from __future__ import annotations

import decimal
import hashlib
import subprocess
import sys
from pathlib import Path

import constriction
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.codec.formats.bits import get_varint, pack_bits, put_varint, unpack_bits
from myna.codec.formats.context_model import (
    MAX_ACTIVATION,
    MAX_BITS,
    UNITS_PER_BIT,
    ContextConfig,
    ContextModel,
    PacketContext,
    expected_shapes,
)
from myna.codec.formats.entropy import _CATEGORICAL, ContextCoder, PackedCoder, _shortest, _words
from myna.errors import CorruptStreamError, InputError, UsageError

CONFIG = ContextConfig(n_codebooks=3, codebook_size=64, embedding=8, hidden=16, past=2)


def random_model(config: ContextConfig = CONFIG, seed: int = 0) -> ContextModel:
    """A model of random integers, as large as the trainer makes them."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        kind = name.rsplit(".", 1)[-1]
        if kind == "shifts":
            tensors[name] = np.array([6, 4], dtype=np.int32)
        elif kind in ("b1", "b2"):
            tensors[name] = rng.integers(-2000, 2000, shape).astype(np.int32)
        else:
            tensors[name] = rng.integers(-127, 128, shape).astype(np.int8)
    return ContextModel(config, tensors, "00112233")


def random_codes(streams: int, frames: int, config: ContextConfig = CONFIG, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(
        0, config.codebook_size, (streams, config.n_codebooks, frames)
    )


@given(width=st.integers(1, 16), values=st.lists(st.integers(0, 2**16 - 1), max_size=70))
@settings(deadline=None)
def test_bits_pack_lowest_first(width, values):
    values = np.array(values, dtype=np.int64) % (1 << width)
    data = pack_bits(values, width)
    assert int.from_bytes(data, "little") == sum(int(v) << (width * i) for i, v in enumerate(values))
    assert np.array_equal(unpack_bits(data, width, len(values)), values)


@given(st.integers(0, 2**63 - 1))
def test_varints(value):
    data = put_varint(value)
    assert get_varint(b"x" + data + b"y", 1) == (value, 1 + len(data))
    with pytest.raises(IndexError):
        get_varint(data[:-1], 0)
    with pytest.raises(ValueError):
        get_varint(b"\xff" * 20, 0)


@pytest.mark.parametrize("size", [2, 3, 1000, 1024, 65536])
@pytest.mark.parametrize("frames", [0, 1, 7])
def test_packed_round_trip(size, frames):
    codes = np.random.default_rng(0).integers(0, size, (2, 3, frames))
    coder = PackedCoder(size)
    assert np.array_equal(coder.decode(coder.encode(codes), 2, frames), codes)


def test_packed_refuses_wrong_sizes_and_codes():
    with pytest.raises(CorruptStreamError, match="bytes"):
        PackedCoder(1024).decode([b"12"], 1, 1000)
    with pytest.raises(CorruptStreamError, match="beyond"):
        PackedCoder(1000).decode([b"\xff\x03"], 1, 1)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 20])
def test_context_round_trip(streams, frames):
    coder, codes = ContextCoder(random_model()), random_codes(streams, frames)
    blocks = coder.encode(codes)
    assert np.array_equal(coder.decode(blocks, streams, frames), codes)


@pytest.mark.parametrize("kept", [1, 2])
def test_lower_blocks_are_those_of_fewer_codebooks(kept):
    coder, codes = ContextCoder(random_model()), random_codes(1, 20)
    blocks = coder.encode(codes)
    assert coder.encode(codes[:, :kept]) == blocks[:kept]
    assert np.array_equal(coder.decode(blocks[:kept], 1, 20), codes[:, :kept])


def test_likely_codes_take_fewer_bits():
    model, likely = random_model(), random_codes(1, 40)
    context = PacketContext(model, 1)
    for t in range(40):
        for k in range(3):
            likely[0, k, t] = context.weights(k).argmax()
            context.put(k, likely[:, k, t])
        context.next_frame()
    coder = ContextCoder(model)
    assert sum(map(len, coder.encode(likely))) < 0.5 * sum(map(len, coder.encode(random_codes(1, 40))))


def exact_weights(model: ContextModel, codes: np.ndarray, k: int, t: int) -> list[int]:
    """The model's definition in Python integers, for stream 0."""
    config, tensors = model.config, model.tensors
    x: list[int] = []
    for j in range(k + 1):
        lags = [*range(1, config.past + 1), 0] if j < k else range(1, config.past + 1)
        for lag in lags:
            code = int(codes[0, j, t - lag]) if t >= lag else config.codebook_size
            x += tensors["embedding"][j, code].tolist()
    w1, b1, w2, b2, (s1, s2) = (
        tensors[f"heads.{k}.{n}"].tolist() for n in ("w1", "b1", "w2", "b2", "shifts")
    )
    h = []
    for row, bias in zip(w1, b1, strict=True):
        total = sum(a * b for a, b in zip(row, x, strict=True)) + bias + (1 << s1 >> 1)
        h.append(min(max(total >> s1, 0), MAX_ACTIVATION))
    y = [sum(a * b for a, b in zip(row, h, strict=True)) + bias for row, bias in zip(w2, b2, strict=True)]
    levels = [min((max(y) - value) >> s2, MAX_BITS * UNITS_PER_BIT) for value in y]
    return [int(model.table[level]) for level in levels]


def test_float32_arithmetic_is_the_integer_definition():
    model, codes = random_model(), random_codes(1, 4)
    together = list(model.weights_of(codes))
    context = PacketContext(model, 1)
    for t in range(4):
        for k in range(3):
            expected = exact_weights(model, codes, k, t)
            assert context.weights(k)[0].tolist() == expected
            assert together[k][t].tolist() == expected
            context.put(k, codes[:, k, t])
        context.next_frame()


def test_the_table_is_rounded_far_from_any_tie():
    decimal.getcontext().prec = 40
    two = decimal.Decimal(2)
    for level, weight in enumerate(random_model().table.tolist()):
        exact = two ** (decimal.Decimal(MAX_BITS) - decimal.Decimal(level) / UNITS_PER_BIT)
        assert weight == int((exact + decimal.Decimal("0.5")).to_integral_value(decimal.ROUND_FLOOR))
        tie = abs(exact - exact.to_integral_value(decimal.ROUND_FLOOR) - decimal.Decimal("0.5"))
        assert tie > exact * decimal.Decimal("1e-12")  # a libm errs by about 1e-16 of the value


def test_constriction_turns_weights_into_ranges_as_its_documentation_says():
    """Were another version of constriction to differ, files would not decode: the ranges in integers."""
    rng = np.random.default_rng(1)
    for n in (64, 1024):
        for _ in range(50):
            weights = np.floor(np.exp2(rng.uniform(0, MAX_BITS, n)))
            symbol = int(rng.integers(n))
            encoder = constriction.stream.queue.RangeEncoder()
            encoder.encode(np.array([symbol], dtype=np.int32), _CATEGORICAL, weights[None])
            position, (low, width) = encoder.pos()
            scale = float((1 << 24) - n) / weights.sum()
            below = np.cumsum(weights) - weights
            edges = [*((below * scale).astype(np.int64) + np.arange(n)).tolist(), 1 << 24]
            share = (2**64 - 1) >> 24
            expected = share * (edges[symbol + 1] - edges[symbol])
            assert width == (expected if position == 0 else expected << 32)
            if position == 0:
                assert low == share * edges[symbol]


def test_bytes_never_change():
    """What this version writes is what every other must read."""
    blocks = ContextCoder(random_model()).encode(random_codes(2, 30))
    assert hashlib.sha256(b"|".join(blocks)).hexdigest()[:16] == "5d1c29fa9f293d50"


_SCRIPT = """
import sys, hashlib, torch
torch.set_num_threads(int(sys.argv[1]))
sys.path.insert(0, sys.argv[2])
from test_entropy import ContextCoder, ContextConfig, random_codes, random_model
config = ContextConfig(n_codebooks=8, codebook_size=1024, embedding=32, hidden=64)
model = random_model(config)
blocks = ContextCoder(model).encode(random_codes(1, 50, config))
print(hashlib.sha256(b"|".join(blocks)).hexdigest())
"""


def test_threads_do_not_matter():
    """Here, and in a process that has another number of them."""
    threads = "2" if torch.get_num_threads() == 1 else "1"
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {"PATH": "", **dict.fromkeys(names, threads)}
    command = [sys.executable, "-c", _SCRIPT, threads, str(Path(__file__).parent)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    config = ContextConfig(n_codebooks=8, codebook_size=1024, embedding=32, hidden=64)
    blocks = ContextCoder(random_model(config)).encode(random_codes(1, 50, config))
    assert found.strip() == hashlib.sha256(b"|".join(blocks)).hexdigest()


def test_a_float64_model_gives_the_same_weights():
    """The order and precision of summation do not matter: the same network in float64."""
    config = ContextConfig(n_codebooks=8, codebook_size=1024, embedding=32, hidden=64)
    model, codes = random_model(config), random_codes(1, 20, config)
    reference = random_model(config)
    reference.embedding = reference.embedding.astype(np.float64)
    reference.heads = [
        type(head)(
            *(np.asarray(getattr(head, n), np.float64) for n in ("w1", "b1", "w2", "b2")),
            head.shift1,
            head.shift2,
        )
        for head in reference.heads
    ]
    for k, (ours, theirs) in enumerate(
        zip(model.weights_of(codes), _in_float64(reference, codes), strict=True)
    ):
        assert np.array_equal(ours, theirs), k


def _in_float64(model: ContextModel, codes: np.ndarray):
    for k, _ in enumerate(model.heads):
        config, head = model.config, model.heads[k]
        x = np.zeros((codes.shape[-1], config.n_codebooks, config.past + 1, config.embedding))
        for t in range(codes.shape[-1]):
            for j in range(config.n_codebooks):
                for lag in range(config.past + 1):
                    code = codes[0, j, t - lag] if t >= lag else config.codebook_size
                    x[t, j, lag - 1 if lag else config.past] = model.embedding[j, code]
        x = x.reshape(len(x), -1)[:, : config.sources(k) * config.embedding]
        h = np.clip(np.floor((x @ head.w1.T + head.b1) / 2**head.shift1), 0, MAX_ACTIVATION)
        y = torch.from_numpy(h @ head.w2.T + head.b2)
        levels = (
            ((y.max(1, keepdim=True).values - y) / 2**head.shift2).floor().clamp(max=MAX_BITS * UNITS_PER_BIT)
        )
        yield model.table[levels.long().numpy()]


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 40)), max_size=60))
@settings(deadline=None, max_examples=200)
def test_the_shortest_ending_decodes(steps):
    """Any symbols under any distributions: the trimmed bytes decode, and are hardly more than needed."""
    symbols = np.array([s for s, _ in steps], dtype=np.int32)
    weights = np.array([[2.0 ** (p if i == s else 3) for i in range(64)] for s, p in steps]).reshape(-1, 64)
    encoder = constriction.stream.queue.RangeEncoder()
    if len(symbols):
        encoder.encode(symbols, _CATEGORICAL, weights)
    data = _shortest(encoder)
    assert len(data) <= 4 * len(encoder.get_compressed())
    assert not data.endswith(b"\0")
    decoder = constriction.stream.queue.RangeDecoder(_words(data))
    if len(symbols):
        assert np.array_equal(decoder.decode(_CATEGORICAL, weights), symbols)
    information = (
        -np.log2(weights[np.arange(len(symbols)), symbols] / weights.sum(1)).sum() if len(symbols) else 0
    )
    assert 8 * len(data) <= information * 1.001 + 9 + 0.01 * len(symbols)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.integers(0, 12))
@settings(deadline=None, max_examples=60)
def test_arbitrary_blocks_give_codes_or_one_error(blocks, frames):
    try:
        codes = ContextCoder(random_model()).decode(blocks, 1, frames)
    except CorruptStreamError:
        return
    assert codes.shape == (1, len(blocks), frames)
    assert ((codes >= 0) & (codes < CONFIG.codebook_size)).all()


def test_model_files(tmp_path):
    model, path = random_model(), tmp_path / "x.entropy.safetensors"
    path.write_bytes(model.to_bytes())
    loaded = ContextModel.load(path)
    assert (loaded.hash, loaded.codec_hash, loaded.config) == (model.hash, "00112233", CONFIG)
    codes = random_codes(1, 9)
    assert ContextCoder(loaded).encode(codes) == ContextCoder(model).encode(codes)
    assert random_model(seed=1).hash != model.hash
    path.write_bytes(model.to_bytes()[:-9])
    with pytest.raises(InputError, match="entropy model"):
        ContextModel.load(path)
    with pytest.raises(InputError):
        ContextModel.load(tmp_path / "missing")


def test_models_that_would_not_be_exact_are_refused():
    tensors = dict(random_model().tensors)
    tensors["heads.1.b2"] = np.full(64, 1 << 24, dtype=np.int32)
    with pytest.raises(ValueError, match="2\\^24"):
        ContextModel(CONFIG, tensors)


def test_more_codebooks_than_the_model_knows():
    coder = ContextCoder(random_model())
    with pytest.raises(UsageError):
        coder.encode(np.zeros((1, 4, 2), dtype=np.int64))
    with pytest.raises(CorruptStreamError):
        coder.decode([b""] * 4, 1, 2)
