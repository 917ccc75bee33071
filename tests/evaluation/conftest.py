"""A codec that is simple enough to know what a report must say about it, and speech to try it on."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from myna.codec import Codec, Codes
from torch import Tensor

ASSETS = Path(__file__).parents[1] / "assets"


class ScalarCodec(Codec):
    """Each sample in steps of 1/8, what is left in steps of 1/128, then of 1/2048: less and less noise."""

    name, sample_rate, channels, frame_size = "scalar", 4000, 1, 1
    n_codebooks, codebook_size = 3, 16

    def encode(self, wav: Tensor, n_codebooks: int | None = None, search: bool = False) -> Codes:
        rest, codes = wav[:, 0], []
        for k in range(n_codebooks or self.n_codebooks):
            code = (rest / self._step(k)).round().clamp(-8, 7).long()
            rest = rest - code * self._step(k)
            codes.append(code + 8)
        return Codes(torch.stack(codes, dim=1), wav.shape[-1])

    def decode(self, codes: Codes) -> Tensor:
        levels = [(codes.codes[:, k] - 8) * self._step(k) for k in range(codes.codes.shape[1])]
        return torch.stack(levels).sum(0)[:, None, : codes.n_samples].float()

    def latents(self, wav: Tensor) -> Tensor:
        return wav

    def rows(self) -> Tensor:
        return torch.stack([(torch.arange(16.0) - 8)[:, None] * self._step(k) for k in range(3)])

    def encoder_stream(self, batch: int = 1, n_codebooks: int | None = None, search: bool = False):
        raise NotImplementedError("an evaluation works on whole clips")

    def decoder_stream(self, batch: int = 1):
        raise NotImplementedError("an evaluation works on whole clips")

    @staticmethod
    def _step(k: int) -> float:
        return 0.125 / 16**k


@pytest.fixture
def scalar_codec() -> ScalarCodec:
    return ScalarCodec().eval()


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Three seconds of a real voice at 24 kHz, (N,) float32."""
    wav, rate = soundfile.read(ASSETS / "speech.wav", dtype="float32", always_2d=True)
    from myna.evaluation.measures.perceptual import at_rate

    return at_rate(wav.mean(axis=1), rate, 24000)[: 3 * 24000]


@pytest.fixture
def shard(tmp_path: Path, speech: np.ndarray) -> Path:
    """Four one-second clips as WebDataset: two sources, two splits."""
    path = tmp_path / "speech-000.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(4):
            sound = io.BytesIO()
            soundfile.write(sound, speech[i * 6000 : i * 6000 + 24000], 24000, format="FLAC")
            meta = {
                "source": ("lj", "synth")[i % 2],
                "split": ("test", "dev")[i // 2],
                "speaker": f"s{i}",
                "text": "one word",
            }
            for suffix, data in (("flac", sound.getvalue()), ("json", json.dumps(meta).encode())):
                member = tarfile.TarInfo(f"clip{i}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path
