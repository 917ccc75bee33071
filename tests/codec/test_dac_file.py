"""`.dac` files: read as NumPy reads them, without running what they hold."""

from __future__ import annotations

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.codec.formats import DacContent, open_compressed, read_dac, write_dac
from myna.codec.formats.dac_file import MODELS, guess_model
from myna.errors import CorruptStreamError, InputError, UsageError


def content(frames: int = 20, **changes) -> DacContent:
    torch.manual_seed(0)
    fields = {
        "codes": torch.randint(1024, (1, 9, frames)),
        "input_db": -23.5,
        "original_length": frames * 512 - 100,
        "sample_rate": 44_100,
        "chunk_length": frames,
        "channels": 1,
    }
    return DacContent(**(fields | changes))


def as_bytes(value: DacContent) -> bytes:
    file = io.BytesIO()
    write_dac(file, value)
    return file.getvalue()


def dictionary(**changes) -> dict:
    """What the original program gives to np.save."""
    value = content()
    metadata = {
        "input_db": np.array([-23.5], dtype=np.float32),
        "original_length": value.original_length,
        "sample_rate": 44_100,
        "chunk_length": 20,
        "channels": 1,
        "padding": True,
        "dac_version": "1.0.0",
    }
    return {"codes": value.codes.numpy().astype(np.uint16), "metadata": metadata | changes}


def npy(payload: bytes) -> bytes:
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + payload


def boxed(value) -> np.ndarray:
    box = np.empty((), dtype=object)
    box[()] = value
    return box


def same(found: DacContent, expected: DacContent) -> None:
    assert torch.equal(found.codes, expected.codes)
    for name in ("input_db", "original_length", "sample_rate", "chunk_length", "channels", "padding"):
        assert getattr(found, name) == getattr(expected, name), name


def test_numpy_reads_what_we_write():
    loaded = np.load(io.BytesIO(as_bytes(content())), allow_pickle=True)[()]
    expected = dictionary()
    assert loaded["codes"].dtype == np.uint16
    assert np.array_equal(loaded["codes"], expected["codes"])
    assert loaded["metadata"].pop("input_db") == expected["metadata"].pop("input_db")
    assert loaded["metadata"] == expected["metadata"]
    assert b"numpy._core" not in as_bytes(content())  # NumPy before 1.26 does not know that name


def test_we_read_what_numpy_writes():
    file = io.BytesIO()
    np.save(file, dictionary())  # pyright: ignore[reportArgumentType]
    same(read_dac(file.getvalue()), content())


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_pickles_of_either_numpy_and_any_protocol(protocol, module):
    payload = pickle.dumps(boxed(dictionary()), protocol=protocol)
    if protocol == 3:
        payload = payload.replace(b"numpy._core.multiarray", module)
    elif module == b"numpy.core.multiarray":
        payload = _unframed(payload).replace(
            b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"
        )
    if protocol == 5:  # arrays become _frombuffer calls with other meaning: refused, not misread
        try:
            same(read_dac(npy(payload)), content())
        except CorruptStreamError:
            return
    same(read_dac(npy(payload)), content())


def _unframed(payload: bytes) -> bytes:
    """Without the frame opcode, whose length would no longer fit."""
    assert payload[2:3] == b"\x95"
    return payload[:2] + payload[11:]


@pytest.mark.parametrize(
    "changes",
    [
        {"input_db": np.float32(-23.5)},
        {"input_db": -23.5},
        {"input_db": np.array(-23.5)},
        {"sample_rate": np.int64(44_100), "channels": np.int32(1)},
        {"original_length": np.array([10_140])},
    ],
)
def test_numbers_as_numpy_scalars(changes):
    payload = pickle.dumps(boxed(dictionary(**changes)), protocol=4)
    same(read_dac(npy(payload)), content())


def test_fortran_order_and_big_endian():
    value = dictionary()
    value["codes"] = np.asfortranarray(value["codes"].astype(">u2").repeat(2, 0)[:1])
    same(read_dac(npy(pickle.dumps(boxed(value), protocol=3))), content())
    value["codes"] = np.asfortranarray(np.concatenate([value["codes"]] * 2))
    assert value["codes"].flags.f_contiguous
    assert torch.equal(read_dac(npy(pickle.dumps(boxed(value), protocol=3))).codes[1], content().codes[0])


class Malicious:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_would_run_something_runs_nothing(tmp_path, protocol):
    marker = tmp_path / "marker"
    attack = Malicious(os.mkdir, str(marker))
    for value in (attack, dictionary(input_db=attack), {"codes": attack}):
        data = npy(pickle.dumps(boxed(value), protocol=protocol))
        with pytest.raises(CorruptStreamError):
            read_dac(data)
        assert not marker.exists()
    np.load(io.BytesIO(npy(pickle.dumps(boxed(attack), protocol=protocol))), allow_pickle=True)
    assert marker.exists()  # the attack was real


@pytest.mark.parametrize(
    "attack",
    [
        Malicious(eval, "1"),
        Malicious(__import__, "os"),
        Malicious(np.zeros, 10**9),
        Malicious(np.frombuffer, b"12345678"),
        Malicious(bytearray, 10**10),
    ],
)
def test_nothing_outside_the_list_is_called(attack):
    with pytest.raises(CorruptStreamError, match=r"nothing was run|instruction"):
        read_dac(npy(pickle.dumps(boxed({"codes": attack}), protocol=4)))


def test_instructions_that_claim_much_memory_get_none():
    for payload in (
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",  # BINBYTES8 of a terabyte
        b"\x80\x04K\x01r\xff\xff\xff\x7f.",  # memo entry two billion
        b"\x80\x04" + b")" * 2000 + b".",  # a deep stack
        b"\x80\x04)" + b"\x85" * 30_000 + b".",  # a deep nest
    ):
        with pytest.raises(CorruptStreamError):
            read_dac(npy(payload))


def test_an_array_larger_than_its_bytes_is_refused():
    payload = pickle.dumps(boxed(dictionary()), protocol=3)
    shape = b"K\x01K\tK\x14\x87"
    assert payload.count(shape) == 1
    for other in (b"K\x01K\tK\x15\x87", b"J\x00\x00\x00\x40K\tK\x14\x87", b"J\xff\xff\xff\xffK\tK\x14\x87"):
        with pytest.raises(CorruptStreamError):
            read_dac(npy(payload.replace(shape, other)))


@pytest.mark.parametrize(
    "changes",
    [
        {"dac_version": "2.0.0"},
        {"original_length": 0},
        {"original_length": 10**15},
        {"original_length": "x"},
        {"sample_rate": -1},
        {"sample_rate": True},
        {"channels": 2},
        {"chunk_length": 21},
        {"chunk_length": 7, "padding": False},
        {"padding": None},
        {"input_db": float("nan")},
        {"input_db": "loud"},
        {"input_db": []},
    ],
)
def test_impossible_facts_are_refused(changes):
    with pytest.raises(CorruptStreamError):
        read_dac(npy(pickle.dumps(boxed(dictionary(**changes)), protocol=4)))


def test_damage_and_truncation_at_every_byte():
    data = as_bytes(content(frames=3, chunk_length=3))
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[at] ^= mask
            try:
                opened = open_compressed(io.BytesIO(bytes(changed)))
            except (CorruptStreamError, InputError) as error:
                assert "\n" not in str(error)  # noqa: PT017
                continue
            for packet in opened.packets():
                assert ((packet.codes >= 0) & (packet.codes < 1024)).all()
        with pytest.raises((CorruptStreamError, InputError)):
            open_compressed(io.BytesIO(data[:at]))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_pickles(junk):
    for data in (b"\x93NUMPY" + junk, npy(junk), npy(b"\x80\x04" + junk)):
        with pytest.raises(CorruptStreamError):
            read_dac(data)


def test_packets_and_facts():
    opened = open_compressed(io.BytesIO(as_bytes(content(300))))
    packets = list(opened.packets())
    assert torch.equal(torch.cat([packet.codes for packet in packets], dim=-1), content(300).codes)
    assert len(packets) == 3
    assert (opened.info.model, opened.info.sample_rate, opened.info.frame_size) == ("dac-44k", 44_100, 512)
    assert not opened.info.separate_chunks
    chunked = content(300, chunk_length=100, padding=False, original_length=250 * 512)
    opened = open_compressed(io.BytesIO(as_bytes(chunked)))
    assert opened.info.separate_chunks
    assert [packet.codes.shape[-1] for packet in opened.packets()] == [100] * 3


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("chunks", [0, 3])
def test_models_are_told_apart_by_their_lengths(model, chunks):
    frames = 10 * model.sample_rate // model.hop_length
    if not chunks:  # one pass: as many frames as samples
        length, chunk = frames * model.hop_length, frames
    else:  # each chunk gives as many samples as its valid convolutions leave
        chunk = 5 * model.sample_rate // model.hop_length
        length, frames = 3 * model.valid_length(chunk) - 50, 3 * chunk
    value = content(
        codes=torch.zeros(1, model.n_codebooks, frames, dtype=torch.long),
        original_length=length * 48_000 // model.sample_rate,
        sample_rate=48_000,
        chunk_length=chunk,
        padding=not chunks,
    )
    assert guess_model(value) == model.name


def test_the_length_without_padding_is_that_of_the_convolutions():
    """The arithmetic of the published decoder, done by the layers themselves."""
    for model in (MODELS[0], MODELS[2]):
        layers = [torch.nn.Conv1d(1, 1, 7)]
        for rate in model.rates:
            layers.append(torch.nn.ConvTranspose1d(1, 1, 2 * rate, rate))
            for dilation in (1, 3, 9):
                layers += [torch.nn.Conv1d(1, 1, 7, dilation=dilation), torch.nn.Conv1d(1, 1, 1)]
        decoder = torch.nn.Sequential(*layers, torch.nn.Conv1d(1, 1, 7))
        assert decoder(torch.zeros(1, 1, 40)).shape[-1] == model.valid_length(40)


def test_writer_refuses_what_is_no_code():
    with pytest.raises(UsageError):
        as_bytes(content(codes=torch.full((1, 9, 20), 1024)))
