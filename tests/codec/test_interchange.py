"""Recordings to EnCodec's and DAC's files and back, and every codec through `.myna`."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import myna
import numpy as np
import pytest
import torch
from myna.codec.dac import DAC, DAC_16K
from myna.codec.dac_chunks import unpadded
from myna.codec.encodec import ENCODEC_24K, ENCODEC_48K, build_encodec
from myna.codec.formats import open_compressed
from myna.codec.interchange import compress_to_dac, compress_to_ecdc, mix
from myna.data.audio import Audio, AudioReader, read_audio
from myna.data.loudness import LoudnessMeter

ASSETS = Path(__file__).resolve().parents[1] / "assets"


@pytest.fixture(params=[ENCODEC_24K, ENCODEC_48K], ids=["24k", "48k"])
def encodec(request):
    """A narrow EnCodec of either kind with random codebooks."""
    torch.manual_seed(0)
    model = build_encodec(replace(request.param, seanet=replace(request.param.seanet, n_filters=4))).eval()
    for buffer in model.buffers():
        if buffer.ndim == 2:
            torch.nn.init.normal_(buffer)
    return model


@pytest.fixture(scope="module")
def dac() -> DAC:
    torch.manual_seed(0)
    return DAC(replace(DAC_16K, encoder_dim=4, latent_dim=32, decoder_dim=64)).eval()


def test_ecdc_holds_the_codes_of_a_whole_file_run(encodec):
    file = io.BytesIO()
    compress_to_ecdc(lambda: AudioReader(ASSETS / "lj.flac"), file, encodec, 4)
    wav = mix(read_audio(ASSETS / "lj.flac", encodec.sample_rate).samples, encodec.channels)
    with torch.inference_mode():
        whole = encodec.encode(torch.from_numpy(wav)[None], 4)
        expected = encodec.decode(whole)[0].numpy()
    packets = open_compressed(io.BytesIO(file.getvalue())).packets()
    assert torch.equal(torch.cat([packet.codes for packet in packets], dim=-1), whole.codes)
    np.testing.assert_allclose(myna.decompress(file.getvalue(), encodec).samples, expected, atol=1e-4)


def test_myna_file_of_a_codec_with_segments_and_loudness(encodec):
    speech = read_audio(ASSETS / "lj.flac").samples[:, :60_000]
    for channels in (1, 2, 3):
        samples = np.concatenate([np.roll(speech, 100 * c, axis=1) for c in range(channels)])
        audio = myna.decompress(myna.compress(Audio(samples, 24_000), encodec), encodec)
        assert audio.samples.shape == samples.shape
        assert audio.sample_rate == 24_000


def test_dac_file_comes_back_at_its_loudness_and_length(dac):
    source = read_audio(ASSETS / "speechocean.flac")
    file = io.BytesIO()
    compress_to_dac(lambda: AudioReader(ASSETS / "speechocean.flac"), file, dac, 12)
    audio = myna.decompress(file.getvalue(), dac)
    assert audio.samples.shape == source.samples.shape
    levels = []
    for samples in (source.samples, audio.samples):
        meter = LoudnessMeter(16_000, 1)
        meter.push(samples)
        levels.append(meter.loudness)
    assert levels[0] == pytest.approx(levels[1], abs=0.01)


def test_unpadded_chunk_agrees_with_the_padded_decoder_away_from_its_ends(dac):
    codes = torch.randint(0, 1024, (1, 12, 60), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latents = dac.quantizer.decode(codes)
        chunk, whole = unpadded(dac.decoder, latents), dac.decoder(latents)
    cut = (whole.shape[-1] - chunk.shape[-1]) // 2
    torch.testing.assert_close(chunk[..., 3000:-3000], whole[..., cut:][..., 3000 : chunk.shape[-1] - 3000])
