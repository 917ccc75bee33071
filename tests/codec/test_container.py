"""The `.myna` container: round trips, streaming, cutting, seeking, and every kind of damage."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.codec.formats import Header, MynaFile, MynaWriter, container, cut, open_compressed, sniff
from myna.codec.formats.context_model import ContextConfig, ContextModel, expected_shapes
from myna.codec.formats.entropy import ContextCoder
from myna.codec.formats.header import MAGIC, unpack_header
from myna.codec.formats.packets import End, Gap, PacketParser, PacketWriter, RawPacket
from myna.errors import CorruptStreamError, InputError, MissingModelError, UsageError

HEADER = Header(
    model="myna-24k",
    weights_hash="0123456789abcdef",
    sample_rate=24_000,
    frame_size=480,
    n_codebooks=3,
    codebook_size=1024,
    streams=1,
    original_sample_rate=44_100,
    channels=1,
    packet_frames=5,
)


class Pipe(io.RawIOBase):
    """A file that cannot seek and gives at most `piece` bytes at a time."""

    def __init__(self, data: bytes, piece: int = 7):
        self.data, self.piece, self.at = data, piece, 0

    def readable(self):
        return True

    def read(self, size=-1):
        size = self.piece if size < 0 else min(size, self.piece)
        data = self.data[self.at : self.at + size]
        self.at += len(data)
        return data


def random_codes(header: Header, frames: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        header.codebook_size, (header.streams, header.n_codebooks, frames), generator=generator
    )


def written(header: Header, codes: torch.Tensor, n_samples: int | None = None) -> bytes:
    file = io.BytesIO()
    writer = MynaWriter(file, header)
    writer.push(codes)
    writer.close(n_samples)
    return file.getvalue()


def read(data: bytes | io.RawIOBase):
    """(opened file, its packets)"""
    opened = MynaFile(io.BytesIO(data) if isinstance(data, bytes) else data)
    return opened, list(opened.packets())


def joined(packets) -> torch.Tensor:
    return torch.cat([packet.codes for packet in packets], dim=-1)


@pytest.mark.parametrize("frames", [0, 1, 4, 5, 6, 23])
@pytest.mark.parametrize("streams", [1, 2])
def test_what_is_written_is_read(frames, streams):
    header = replace(HEADER, streams=streams, channels=streams)
    codes = random_codes(header, frames)
    n_samples = frames * 882 - 3 if frames else 0
    opened, packets = read(written(header, codes, n_samples))
    assert torch.equal(joined(packets), codes) if frames else packets == []
    assert [packet.start for packet in packets] == list(range(0, frames, 5))
    assert opened.damage == []
    assert opened.info.n_samples == n_samples
    assert (opened.info.original_sample_rate, opened.info.channels) == (44_100, streams)
    assert opened.info.model == "myna-24k"
    assert opened.info.weights_hash == "0123456789abcdef"


def test_a_packet_costs_few_bytes_beyond_its_codes():
    header = replace(HEADER, n_codebooks=8, packet_frames=50)
    one, many = (len(written(header, random_codes(header, 50 * n))) for n in (1, 101))
    # 504 bytes of codes, 8 lengths of blocks, 10 of framing, and an index entry every eighth packet
    assert (many - one) / 100 <= 504 + 8 + 10 + 0.5


@given(cuts=st.lists(st.integers(0, 23), max_size=6), piece=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_any_chunking_writes_and_reads_the_same(cuts, piece):
    codes = random_codes(HEADER, 23)
    whole = written(HEADER, codes, 20_000)
    file = io.BytesIO()
    writer = MynaWriter(file, HEADER)
    edges = [0, *sorted(cuts), 23]
    for a, b in pairwise(edges):
        writer.push(codes[..., a:b])
    writer.close(20_000)
    assert file.getvalue() == whole
    opened, packets = read(Pipe(whole, piece))
    assert torch.equal(joined(packets), codes)
    assert opened.info.n_samples == 20_000
    assert not opened.damage


def test_packets_leave_and_arrive_before_the_file_ends():
    file = io.BytesIO()
    writer = MynaWriter(file, HEADER)
    parser = PacketParser()
    sent = 0
    for i in range(4):
        writer.push(random_codes(HEADER, 5, seed=i))
        events = parser.feed(file.getvalue()[sent:])
        sent = len(file.getvalue())
        assert [event.sequence for event in events if isinstance(event, RawPacket)] == [i]


def test_length_unknown_at_first_comes_with_the_end():
    data = written(HEADER, random_codes(HEADER, 12), 10_000)
    assert unpack_header(data)[0].n_samples is None
    pipe = MynaFile(Pipe(data))
    assert pipe.info.n_samples is None
    assert pipe.bitrate() is None
    list(pipe.packets())
    assert pipe.info.n_samples == 10_000
    assert pipe.bitrate() == pytest.approx(8 * len(data) / (10_000 / 44_100))
    assert MynaFile(io.BytesIO(data)).info.n_samples == 10_000  # without reading a packet


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_fewer_codebooks_are_cut_out_as_encoding_would_have_made_them(kept):
    codes = random_codes(HEADER, 23)
    destination = io.BytesIO()
    assert cut(io.BytesIO(written(HEADER, codes, 20_000)), destination, n_codebooks=kept) == []
    direct = written(replace(HEADER, n_codebooks=kept), codes[:, :kept], 20_000)
    opened, packets = read(destination.getvalue())
    assert torch.equal(joined(packets), codes[:, :kept])
    assert opened.info.n_samples == 20_000
    bodies = [_packets_of(data) for data in (destination.getvalue(), direct)]
    assert bodies[0] == bodies[1]


def _packets_of(data: bytes) -> list[RawPacket]:
    parser = PacketParser()
    return [e for e in parser.feed(data) + parser.close() if isinstance(e, RawPacket)]


def test_time_is_cut_with_a_warm_start():
    codes = random_codes(HEADER, 50)  # one second, ten packets of 0.1 s
    destination = io.BytesIO()
    cut(io.BytesIO(written(HEADER, codes, 44_000)), destination, start=0.42, end=0.75)
    opened, packets = read(destination.getvalue())
    assert torch.equal(joined(packets), codes[..., 15:40])  # from the packet before 0.4 s on
    assert opened.info.skip == round(0.42 * 44_100) - 3 * 4410
    assert opened.info.n_samples == round(0.75 * 44_100) - round(0.42 * 44_100)
    again = io.BytesIO()  # cutting twice is cutting once
    cut(io.BytesIO(destination.getvalue()), again, start=0.1)
    opened, packets = read(again.getvalue())
    first = 50 - 10 - packets[0].codes.shape[-1] * len(packets)
    assert opened.info.skip + first * 882 == round(0.42 * 44_100) + 4410
    assert opened.info.n_samples == 33_075 - 18_522 - 4410


def test_cutting_refuses_what_is_not_there():
    data = written(HEADER, random_codes(HEADER, 5))
    with pytest.raises(UsageError, match="holds 3"):
        cut(io.BytesIO(data), io.BytesIO(), n_codebooks=4)
    with pytest.raises(UsageError, match="not in order"):
        cut(io.BytesIO(data), io.BytesIO(), start=2, end=1)


@pytest.mark.parametrize("lost_index", [False, True])
def test_seeking_gives_the_packet_of_that_time(lost_index):
    codes = random_codes(HEADER, 403)
    data = written(HEADER, codes, 350_000)
    if lost_index:
        data = data[:-1]
    opened = MynaFile(io.BytesIO(data))
    for seconds in (3.17, 0.0, 8.05, 0.05, 100.0):
        packets = list(opened.packets(seconds))
        first = int(seconds * 10) * 5
        if first > 403:
            assert packets == []
        else:
            assert packets[0].start == first
            assert torch.equal(joined(packets), codes[..., first:])
    assert next(iter(MynaFile(Pipe(data)).packets(3.17))).start == 155  # a pipe is read forward


def test_seeking_reads_little():
    class Counting(io.BytesIO):
        taken = 0

        def read1(self, size=-1):
            data = super().read1(size)
            self.taken += len(data)
            return data

    file = Counting(written(HEADER, random_codes(HEADER, 200_000)))
    opened = MynaFile(file)
    before = file.taken
    next(opened.packets(3990.0))
    assert file.taken - before <= 2 * (1 << 16)


def test_a_long_stream_keeps_a_small_index():
    file = io.BytesIO()
    writer = PacketWriter(file, replace(HEADER, n_codebooks=1, packet_frames=1))
    for i in range(100_000):
        writer.write(RawPacket(i, 1, [b""]))
    writer.close(None)
    assert len(writer.offsets) <= 4096
    opened = MynaFile(io.BytesIO(file.getvalue()))
    assert opened.end.stride * len(opened.end.offsets) >= 100_000
    parser = PacketParser(opened.header, opened.end.stride * 7)
    events = parser.feed(file.getvalue()[opened.end.offsets[7] : opened.end.offsets[7] + 100])
    assert events[0].sequence == opened.end.stride * 7


def test_loudness_travels_with_its_segment():
    header = replace(HEADER, scaled=True, packet_hop=5 * 480 - 24)
    file = io.BytesIO()
    writer = MynaWriter(file, header)
    segments = [
        random_codes(header, n, seed=n) for n in (5, 5, 4, 1)
    ]  # where segments overlap, two may be short
    for i, codes in enumerate(segments):
        writer.push(codes, torch.tensor([0.5 + i]))
    writer.close()
    opened, packets = read(file.getvalue())
    assert not opened.damage
    assert torch.equal(joined(packets), torch.cat(segments, dim=-1))
    assert [packet.scale.item() for packet in packets] == [0.5, 1.5, 2.5, 3.5]
    with pytest.raises(UsageError, match="loudness"):
        writer.push(segments[0])


def test_a_damaged_packet_costs_itself_alone():
    codes = random_codes(HEADER, 25)
    data = bytearray(written(HEADER, codes, 22_000))
    data[len(HEADER.pack()) + 5 * size_of_packet(_packets_of(bytes(data))[0]) // 2] ^= (
        0x10  # in the third packet
    )
    opened, packets = read(bytes(data))
    assert [packet.lost for packet in packets] == [False, False, True, False, False]
    assert packets[2].codes.shape == (1, 3, 5)
    assert [packet.start for packet in packets] == [0, 5, 10, 15, 20]
    for i in (0, 1, 3, 4):
        assert torch.equal(packets[i].codes, codes[..., 5 * i : 5 * i + 5])
    assert [(damage.packet, damage.frames) for damage in opened.damage] == [(2, 5)]
    assert opened.info.n_samples == 22_000


def test_concealment_repeats_and_fades():
    codes = random_codes(HEADER, 200)
    file = io.BytesIO()
    writer = PacketWriter(file, HEADER)
    source = _packets_of(written(HEADER, codes))
    for packet in source:
        if not 5 <= packet.sequence < 15:
            writer.write(packet)
    writer.close(None)
    opened, packets = read(file.getvalue())
    lost = [packet for packet in packets if packet.lost]
    assert len(packets) == 40
    assert len(lost) == 10
    repeated, gain = joined(lost), torch.cat([packet.gain for packet in lost])
    assert torch.equal(repeated[..., :7], codes[..., 17:24].flip(-1))  # backwards from the last but one
    assert gain[0] == 1
    assert (gain.diff() <= 0).all()
    assert (gain[12:] == 0).all()
    assert "missing" in str(opened.damage[0])


def test_lost_beginning_is_silent():
    packets = _packets_of(written(HEADER, random_codes(HEADER, 15)))
    file = io.BytesIO()
    writer = PacketWriter(file, HEADER)
    writer.write(packets[2])
    writer.close(None)
    _, found = read(file.getvalue())
    assert [packet.lost for packet in found] == [True, True, False]
    assert all((packet.gain == 0).all() for packet in found[:2])


def test_repeated_and_late_packets_are_left_out():
    codes = random_codes(HEADER, 15)
    data = written(HEADER, codes)
    first = len(HEADER.pack())
    second = first + size_of_packet(_packets_of(data)[0])
    repeated = data[:second] + data[first:second] + data[second:]
    opened, found = read(repeated)
    assert torch.equal(joined(found), codes)
    assert "again" in opened.damage[0].reason


def size_of_packet(packet: RawPacket) -> int:
    file = io.BytesIO()
    writer = PacketWriter(file, HEADER)
    before = writer.position
    writer.write(packet)
    return writer.position - before


def check_read(data: bytes, codes: torch.Tensor, n_samples: int):
    """CorruptStreamError, reported damage, or exactly the codes; and whatever is not lost is right."""
    try:
        opened, packets = read(data)
    except CorruptStreamError:
        return
    for packet in packets:
        if not packet.lost:
            assert torch.equal(packet.codes, codes[..., packet.start : packet.start + packet.codes.shape[-1]])
    if not opened.damage:
        assert torch.equal(joined(packets), codes)
        assert opened.info.n_samples == n_samples


def test_every_flip_of_every_byte():
    codes = random_codes(HEADER, 12)
    data = written(HEADER, codes, 10_000)
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[at] ^= mask
            check_read(bytes(damaged), codes, 10_000)
            if at >= len(HEADER.pack()):  # damage to one packet is never the end of the file
                read(bytes(damaged))


def test_truncation_at_every_byte():
    codes = random_codes(HEADER, 12)
    data = written(HEADER, codes, 10_000)
    head, end = len(HEADER.pack()), len(written(HEADER, codes[..., :0]))
    for length in range(len(data)):
        check_read(data[:length], codes, 10_000)
        if length < head:
            with pytest.raises(CorruptStreamError):
                read(data[:length])
        elif length < len(data) - end + head:
            opened, packets = read(data[:length])
            assert opened.damage
            assert not any(packet.lost for packet in packets)
            assert opened.info.n_samples == 882 * sum(packet.codes.shape[-1] for packet in packets)


@given(st.binary(max_size=400), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_after_a_header_are_survived(junk, piece):
    _, packets = read(Pipe(HEADER.pack() + junk, piece))
    assert not any(not packet.lost for packet in packets)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused_in_one_line(junk):
    for data in (junk, MAGIC + junk, MAGIC + b"\x01" + junk):
        with pytest.raises((CorruptStreamError, InputError)) as caught:
            list(open_compressed(io.BytesIO(data)).packets())
        assert "\n" not in str(caught.value)


@given(at=st.integers(0, 2000), junk=st.binary(min_size=1, max_size=60), cut_out=st.integers(0, 80))
@settings(max_examples=150, deadline=None)
def test_bytes_put_in_or_taken_out_anywhere(at, junk, cut_out):
    codes = random_codes(HEADER, 40)
    data = written(HEADER, codes, 35_000)
    at = len(HEADER.pack()) + at % (len(data) - len(HEADER.pack()))
    check_read(data[:at] + junk + data[at + cut_out :], codes, 35_000)


def test_a_header_that_claims_a_billion_frames_allocates_nothing():
    codes = random_codes(HEADER, 10)
    huge = written(replace(HEADER, n_samples=882_000_000_000), codes)
    tracemalloc.start()
    opened, packets = read(huge)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(joined(packets), codes)
    assert opened.info.n_samples <= 10 * 882 + 2
    assert peak < 4_000_000


def test_a_packet_from_the_far_future_is_not_believed():
    packets = _packets_of(written(HEADER, random_codes(HEADER, 10)))
    file = io.BytesIO()
    writer = PacketWriter(file, HEADER)
    writer.write(packets[0])
    data = file.getvalue()
    writer.packets = 2_000_000_000  # instead of an index of two billion packets
    writer.write(replace(packets[1], sequence=2_000_000_000))
    data = file.getvalue()
    opened, found = read(data)
    assert len(found) <= 2 + 64
    assert "not believed" in str(opened.damage[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_codebooks": 0},
        {"n_codebooks": 65},
        {"codebook_size": 1},
        {"streams": 0},
        {"sample_rate": 0},
        {"packet_frames": 5000},
        {"streams": 64, "n_codebooks": 64, "packet_frames": 4096},
        {"coder_id": 9},
        {"model": "x" * 65},
        {"model": "a\nb"},
        {"n_samples": 1 << 50},
    ],
)
def test_headers_out_of_bounds_are_neither_written_nor_read(wrong, monkeypatch):
    header = replace(HEADER, **wrong)
    with pytest.raises(UsageError):
        header.pack()
    monkeypatch.setattr(Header, "problem", lambda self: None)
    data = header.pack()
    monkeypatch.undo()
    with pytest.raises(CorruptStreamError):
        unpack_header(data)


def test_writer_refuses_what_does_not_fit():
    writer = MynaWriter(io.BytesIO(), HEADER)
    with pytest.raises(UsageError, match="shape"):
        writer.push(torch.zeros(1, 2, 5, dtype=torch.long))
    with pytest.raises(UsageError, match="1023"):
        writer.push(torch.full((1, 3, 5), 1024))


def test_a_pipe_is_read_once():
    opened = MynaFile(Pipe(written(HEADER, random_codes(HEADER, 10))))
    list(opened.packets())
    with pytest.raises(UsageError, match="once"):
        opened.packets()


def test_sniffing():
    assert sniff(written(HEADER, random_codes(HEADER, 0))[:8]) == "myna"
    assert sniff(b"ECDC\0\0\0\0") == "ecdc"
    assert sniff(b"\x93NUMPY\x01\0") == "dac"
    assert sniff(b"RIFF") is None
    assert sniff(b"") is None
    for data in (b"", b"RIFFxxxxWAVE"):
        with pytest.raises(InputError, match="myna compress"):
            open_compressed(io.BytesIO(data))


def test_parser_holds_no_more_than_a_packet():
    parser = PacketParser()
    parser.feed(HEADER.pack())
    for _ in range(50):
        parser.feed(np.random.default_rng(0).bytes(10_000))
        assert len(parser._buffer) < 1000
    assert not any(isinstance(e, (End, Gap)) for e in parser.close())


@pytest.fixture(scope="module")
def context_model() -> ContextModel:
    config = ContextConfig(n_codebooks=3, codebook_size=1024, embedding=4, hidden=8, past=2)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.integers(-100, 101, shape).astype(np.int32)
        for name, shape in expected_shapes(config).items()
    }
    for k in range(3):
        tensors[f"heads.{k}.shifts"] = np.array([5, 4], dtype=np.int32)
    return ContextModel(config, tensors, HEADER.weights_hash)


def test_the_context_model_that_ships_is_found_by_name_and_hash(context_model, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "_WEIGHTS", tmp_path)
    monkeypatch.setattr(container.find_context_model, "__defaults__", (tmp_path, None))
    (tmp_path / "myna-24k.entropy.safetensors").write_bytes(context_model.to_bytes())
    codes = random_codes(HEADER, 23)
    data = written(HEADER, codes, 20_000)
    header, _ = unpack_header(data)
    assert (header.coder_id, header.model_hash) == (1, context_model.hash)
    opened, packets = read(data)
    assert opened.info.entropy_coder == "context"
    assert torch.equal(joined(packets), codes)
    destination = io.BytesIO()
    cut(io.BytesIO(data), destination, n_codebooks=2)
    assert torch.equal(joined(read(destination.getvalue())[1]), codes[:, :2])
    other = unpack_header(written(replace(HEADER, weights_hash="ff"), codes))[0]
    assert other.coder_id == 0  # weights that the model was not trained for
    (tmp_path / "myna-24k.entropy.safetensors").unlink()
    with pytest.raises(MissingModelError, match=context_model.hash):
        MynaFile(io.BytesIO(data)).packets()


def test_files_of_an_earlier_context_model_stay_readable(context_model, tmp_path, monkeypatch):
    monkeypatch.setattr(container.find_context_model, "__defaults__", (tmp_path, None))
    path = tmp_path / "myna-24k.entropy.safetensors"
    path.write_bytes(context_model.to_bytes())
    codes = random_codes(HEADER, 23)
    data = written(HEADER, codes, 20_000)
    path.rename(tmp_path / f"myna-24k.entropy-{context_model.hash}.safetensors")
    assert torch.equal(joined(read(data)[1]), codes)  # where nothing else is
    tensors = {name: value + (name == "embedding") for name, value in context_model.tensors.items()}
    newer = ContextModel(context_model.config, tensors, context_model.codec_hash)
    path.write_bytes(newer.to_bytes())
    assert torch.equal(joined(read(data)[1]), codes)
    written_now = written(HEADER, codes, 20_000)
    assert unpack_header(written_now)[0].model_hash == newer.hash != context_model.hash
    assert torch.equal(joined(read(written_now)[1]), codes)


def test_damage_at_every_byte_of_entropy_coded_packets(context_model):
    codes, coder = random_codes(HEADER, 7), ContextCoder(context_model)
    file = io.BytesIO()
    writer = MynaWriter(file, HEADER, coder)
    writer.push(codes)
    writer.close(6000)
    data = file.getvalue()
    for at in range(len(HEADER.pack()), len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        opened = MynaFile(io.BytesIO(bytes(damaged)), coder=coder)
        packets = list(opened.packets())
        assert opened.damage or torch.equal(joined(packets), codes)
        for packet in packets:
            whole = codes[..., packet.start : packet.start + packet.codes.shape[-1]]
            assert packet.lost or torch.equal(packet.codes, whole)
