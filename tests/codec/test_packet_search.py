"""Codes chosen for their bits as well: prices as the coder has them, packets alone, smaller files."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from myna.codec.formats import open_compressed
from myna.codec.formats.container import find_context_model
from myna.codec.formats.context_model import ContextConfig
from myna.codec.formats.context_price import ContextPrice
from myna.codec.myna import MynaCodec
from myna.codec.packet_search import PATHS, PacketSearch
from myna.codec.pipeline import compress
from myna.codec.quantizer import EMACodebook, ResidualVQ
from myna.codec.registry import load_codec
from myna.data.audio import AudioReader
from myna.errors import UsageError
from torch import Tensor

from .test_entropy import CONFIG, random_codes, random_model
from .test_myna import TINY

SPEECH = "tests/assets/speech.wav"
STREAMS, FRAMES, PACKET = 2, 23, 10


@pytest.fixture
def quantizer() -> ResidualVQ:
    torch.manual_seed(0)
    books = [EMACodebook(6, CONFIG.codebook_size) for _ in range(CONFIG.n_codebooks)]
    for k, book in enumerate(books):
        book.embed.copy_(torch.randn(CONFIG.codebook_size, 6) * 0.5**k)
    return ResidualVQ(books, n_paths=4).eval()


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(STREAMS, 6, FRAMES, generator=torch.Generator().manual_seed(1))


def bits(codes: np.ndarray) -> float:
    """Of codes (S, K, T), as the coder counts them, each packet with an empty context."""
    total = 0.0
    for start in range(0, codes.shape[-1], PACKET):
        packet = codes[..., start : start + PACKET]
        for k, weights in enumerate(random_model().weights_of(packet)):
            chosen = weights[np.arange(len(weights)), packet[:, k].T.reshape(-1)]
            total -= float(np.log2(chosen / weights.sum(1)).sum())
    return total


def error(quantizer: ResidualVQ, latents: Tensor, codes: Tensor) -> float:
    return float((latents - quantizer.decode(codes)).square().sum())


@pytest.mark.parametrize("n_codebooks", [1, 3])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_prices_are_the_coders_bits(frames, n_codebooks):
    codes = random_codes(STREAMS, frames)[:, :n_codebooks]
    price = ContextPrice(random_model(), torch.from_numpy(codes), unit=3.0).of(0, STREAMS * frames)
    for k, weights in enumerate(random_model().weights_of(codes)):
        expected = -np.log2(weights / weights.sum(1, keepdims=True))  # frame by frame
        found = price(k).view(STREAMS, frames, -1).transpose(0, 1).flatten(0, 1).numpy() / 3
        likely = expected < 16  # the weights of others are rounded coarsely
        assert likely.any()
        np.testing.assert_allclose(found[likely], expected[likely], atol=0.03)


def test_prices_of_a_part_are_those_of_the_whole():
    price = ContextPrice(random_model(), torch.from_numpy(random_codes(STREAMS, 9)), unit=1.0)
    torch.testing.assert_close(price.of(4, 7)(2), price.of(0, 18)(2)[4:11])


@pytest.mark.parametrize("chunk", [1, 7, 10, 23])
def test_chunks_of_any_length_give_the_same_codes(quantizer, latents, chunk):
    whole = PacketSearch(quantizer, random_model(), 3, PACKET)
    expected = torch.cat([whole.push(latents), whole.flush()], dim=-1)
    search = PacketSearch(quantizer, random_model(), 3, PACKET)
    found = [search.push(part) for part in latents.split(chunk, dim=-1)]
    assert all(part.shape[-1] % PACKET == 0 for part in found)
    found.append(search.flush())
    assert torch.equal(torch.cat(found, dim=-1), expected)
    assert expected.shape == (STREAMS, 3, FRAMES)


def test_a_packet_does_not_know_the_one_before(quantizer, latents):
    search = PacketSearch(quantizer, random_model(), 3, PACKET)
    both = search.push(latents[..., : 2 * PACKET])
    alone = PacketSearch(quantizer, random_model(), 3, PACKET).push(latents[..., PACKET : 2 * PACKET])
    assert torch.equal(both[..., PACKET:], alone)


def test_a_fork_goes_on_alone(quantizer, latents):
    search = PacketSearch(quantizer, random_model(), 3, PACKET)
    search.push(latents[..., :13])
    fork = search.fork()
    fork.push(torch.randn_like(latents))
    rest = torch.cat([search.push(latents[..., 13:]), search.flush()], dim=-1)
    whole = PacketSearch(quantizer, random_model(), 3, PACKET)
    assert torch.equal(rest, torch.cat([whole.push(latents), whole.flush()], dim=-1)[..., PACKET:])


def test_bits_are_bought_with_error(quantizer, latents):
    found = []
    for bit in (0.0, 0.1, 0.5):
        codes = PacketSearch(quantizer, random_model(), 3, FRAMES, bit).push(latents)
        found.append((bits(codes.numpy()), error(quantizer, latents, codes)))
    nearest = quantizer.search(latents, 3, n_paths=PATHS)
    assert found[0][1] == pytest.approx(error(quantizer, latents, nearest))
    assert found[0][0] > found[1][0] > found[2][0]
    assert found[0][1] < found[1][1] < found[2][1]


def test_only_what_searches_has_packets():
    model = random_model(ContextConfig(n_codebooks=3, codebook_size=16, embedding=8, hidden=16))
    for config in (replace(TINY, quantizer="factorized"), replace(TINY, n_paths=1)):
        codec = MynaCodec(config).eval()
        with pytest.raises(UsageError, match="does not search"):
            codec.packet_stream(1, 3, 10, model)


def test_a_file_of_speech_is_smaller_and_holds_the_chosen_codes(monkeypatch):
    codec = load_codec("myna-24k-v2")
    assert isinstance(codec, MynaCodec)

    def written() -> tuple[bytes, Tensor]:
        file = io.BytesIO()
        with AudioReader(SPEECH) as reader:
            compress(reader, file, codec, packet_seconds=2.0)
        file.seek(0)
        return file.getvalue(), torch.cat(
            [packet.codes for packet in open_compressed(file).packets()], dim=-1
        )

    cheap, codes = written()
    monkeypatch.setattr("myna.codec.myna.MynaCodec.searches", False)
    near, _ = written()
    assert len(cheap) < 0.95 * len(near)
    model = find_context_model("myna-24k-v2")
    assert model is not None
    monkeypatch.undo()
    with AudioReader(SPEECH) as reader:
        wav = torch.from_numpy(np.concatenate(list(reader.blocks(60)), axis=1))[:, None]
    stream = codec.packet_stream(1, 10, 100, model)
    expected = torch.cat([stream.push(wav), stream.flush()], dim=-1)
    assert torch.equal(codes, expected)
