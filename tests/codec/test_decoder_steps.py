"""The decoder step of every codec, as a graph captures it: nothing is read back, and streams come and go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from myna.codec.dac import DAC, DACConfig
from myna.codec.dac_chunks import DacChunkStream
from myna.codec.encodec import Encodec, EncodecConfig, build_encodec
from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
from myna.codec.mel_vocoder_stream import MelVocoderStream
from myna.codec.myna import MynaCodec, MynaConfig
from myna.codec.seanet import SEANetConfig
from myna.layers import Stream
from myna.layers.graph import StreamGraph

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def made(name: str) -> Any:
    torch.manual_seed(0)
    if name == "encodec":
        return Encodec(
            EncodecConfig(n_codebooks=3, codebook_size=32, seanet=SEANetConfig(n_filters=4, dimension=16))
        )
    if name == "dac":
        rates = {"encoder_rates": (2, 4), "decoder_rates": (4, 2)}
        return DAC(
            DACConfig(encoder_dim=4, decoder_dim=32, latent_dim=16, n_codebooks=3, codebook_size=32, **rates)
        )
    if name == "encodec by segments":
        narrow = SEANetConfig(channels=2, causal=False, norm="time_group_norm", n_filters=4, dimension=16)
        return build_encodec(
            EncodecConfig(
                "small", 4_000, narrow, n_codebooks=3, codebook_size=32, segment=40_000, normalize=True
            )
        )
    small = MynaConfig(
        hop=24, width=32, latent_width=32, latent_dim=8, n_codebooks=3, codebook_size=32, encoder_depth=(1, 1),
        decoder_depth=(1, 1),
    )  # fmt: skip
    return MynaCodec(small)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["myna", "encodec", "dac"])
def test_streams_come_and_go_without_reading_back(name, device, no_synchronisation):
    codec = made(name).eval().to(device)
    for parameter in codec.parameters():
        parameter.requires_grad_(False)
    codes = torch.randint(32, (2, 3, 40), device=device)
    latents = codec.quantizer.decode(codes)
    graph = StreamGraph(Stream(codec.decoder, 2), latents[..., :2])
    both, first = (torch.tensor(rows, device=device) for rows in ([True, True], [True, False]))
    if codec.decoder.resettable:
        graph.reset(both)
    got: list[list[torch.Tensor]] = [[], []]
    taken = [0, 0]
    for step in range(10):
        active, rows = (first, (0,)) if step in (4, 5) else (both, (0, 1))
        with no_synchronisation(), torch.inference_mode():
            z = torch.stack(
                [codec.quantizer.decode(codes[r : r + 1, :, n : n + 2])[0] for r, n in enumerate(taken)]
            )
            y = graph.push(z, active)
        for row in rows:
            got[row].append(y[row].clone())
            taken[row] += 2
    assert taken == [20, 16]
    if not codec.decoder.resettable:  # it began with the zeros of settling
        return
    for row in range(2):
        alone = Stream(codec.decoder).push(latents[row : row + 1, :, : taken[row]])[0]
        ours = torch.cat(got[row], -1)
        torch.testing.assert_close(ours, alone[..., : ours.shape[-1]], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_that_pauses_goes_on_where_it_was(device):
    """Of decoders that look ahead, too, whose rows cannot begin anew alone."""
    codec = made("dac").eval().to(device)
    latents = torch.randn(2, 16, 60, device=device)
    graph = StreamGraph(Stream(codec.decoder, 2), latents[..., :2])
    steady = StreamGraph(Stream(codec.decoder, 2), latents[..., :2])
    both, first = (torch.tensor(rows, device=device) for rows in ([True, True], [True, False]))
    expected = torch.cat([steady.push(part, both)[1].clone() for part in latents.split(2, dim=-1)], dim=-1)
    got, at = [], 0
    for step in range(40):
        pauses = step % 4 == 1
        y = graph.push(latents[..., at : at + 2], first if pauses else both)
        if not pauses:
            got.append(y[1].clone())
            at += 2
        if at == 60:
            break
    torch.testing.assert_close(torch.cat(got, -1), expected, rtol=1e-4, atol=1e-6)


def test_the_mel_vocoder_does_not_read_back(no_synchronisation):
    torch.manual_seed(0)
    small = MelVocoderConfig(mel_bands=10, width=16, depth=2, bands=20, look_ahead=2)
    stream = MelVocoderStream(MelVocoder(small).eval(), contrast=1.2)
    stream.push(torch.randn(10, 9))
    with no_synchronisation():
        for _ in range(3):
            assert stream.push(torch.randn(10, 4)).shape == (4 * small.hop,)


def heard(stream: Any, codes: torch.Tensor, cuts: tuple[int, ...], *more: torch.Tensor) -> torch.Tensor:
    parts = codes[..., : sum(cuts)].split(list(cuts), dim=-1)
    return torch.cat([*(stream.push(part, *more) for part in parts), stream.flush()], dim=-1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["myna", "encodec", "dac"])
def test_decoder_streams_are_captured(name, device, steadily, monkeypatch):
    """Packets of one length and others: what is heard stays the same."""
    codec = made(name).eval().to(device)
    codes = torch.randint(32, (2, 3, 60), device=device)
    cuts = (*[5] * 7, 3, 5, 5, 5, 1, 2)
    ours = heard(codec.decoder_stream(2), codes, cuts)
    assert steadily.count(5) >= 4
    assert steadily.count(3) == 0
    monkeypatch.undo()
    torch.testing.assert_close(ours, heard(codec.decoder_stream(2), codes, cuts), rtol=1e-4, atol=1e-5)


def test_segments_and_chunks_are_captured(steadily, monkeypatch):
    """Without a state, each alone: those of EnCodec at 48 kHz, and of DAC's own files."""
    codec = made("encodec by segments").eval()
    n = codec.packet_frames
    codes, scale = torch.randint(32, (1, 3, 4 * n + 9)), torch.rand(1, 5)
    ours = [heard(codec.decoder_stream(), codes, (4 * n + 9,), scale)]
    assert steadily.count(n) == 2
    dac = made("dac").eval()
    chunks = torch.randint(32, (1, 3, 4 * 60 + 55))
    cuts = (60, 60, 60, 60, 55)
    ours.append(heard(DacChunkStream(dac, 1), chunks, cuts))
    assert steadily.count(60) == 2
    monkeypatch.undo()
    expected = (
        heard(codec.decoder_stream(), codes, (4 * n + 9,), scale),
        heard(DacChunkStream(dac, 1), chunks, cuts),
    )
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("contrast", [1.0, 1.2])
def test_the_mel_vocoder_is_captured(contrast, steadily, monkeypatch, no_synchronisation):
    torch.manual_seed(0)
    vocoder = MelVocoder(MelVocoderConfig(mel_bands=10, width=16, depth=2, bands=20, look_ahead=2)).eval()
    mels = torch.randn(10, 60).split([6, 4, 4, 4, 4, 3, 4, 1, 4, 4, 4, 4, 4, 10], dim=1)

    def sound(seed: int) -> torch.Tensor:
        stream = MelVocoderStream(vocoder, contrast, seed)
        return torch.cat([*(stream.push(mel) for mel in mels), stream.flush()])

    ours = [sound(1), sound(2)]
    with no_synchronisation():
        again = sound(2)
    assert torch.equal(again, ours[1])
    assert steadily.count(4) > 12
    monkeypatch.undo()
    assert torch.equal(ours[0], sound(1))
    assert torch.equal(ours[1], sound(2))
    assert not torch.equal(*ours)
