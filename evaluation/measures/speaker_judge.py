"""A second judge of likeness, of another kind than the network that Myna's models are conditioned on
(`pretrained.ge2e`): what learns from one network's vectors learns to please that network.

    log-mel below 7.4 kHz -> cepstra and their slopes -> a mixture of Gaussians says which sound each frame is
      -> how this voice's sounds differ from everybody's, sound by sound (a supervector, Campbell et al. 2006)
      -> principal axes -> linear discriminant analysis -> length 1; the cosine of two is their likeness

No gradient has trained it: a mixture (Reynolds et al. 2000) and two linear maps are computed from recordings of some
thousand people by `python -m myna.training.models.speaker_judge`.

Shapes: N samples, T frames of 10 ms, M mel bands, D cepstra and slopes, G Gaussians, R principal axes, L numbers of a
vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.checkpoint import load_checkpoint
from ...data.resample import resample
from ...layers.mel import MelFrames

RATE = 24_000
FILE = "speaker-judge.safetensors"
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
_QUIET = 4.0  # nats of mean log-mel below the loud frames: no speech
_SHORTEST = 20  # frames of speech, with less there is nothing to judge


@dataclass(frozen=True)
class SpeakerJudgeConfig:
    """Dimensions."""

    name: str = "speaker-judge"
    bands: int = 66  # of 80, from below: the others lie above 7 kHz, which recordings at 16 kHz do not have
    cepstra: int = 24
    gaussians: int = 128
    relevance: float = 8.0  # frames of a sound that count as much as what is known of everybody's
    axes: int = 300
    dims: int = 128


class SpeakerJudge(nn.Module):
    """Log-mels to speaker vectors. Nothing in it is a parameter: `training.models.speaker_judge` computes all of it."""

    cosines: Tensor
    centre: Tensor
    deviation: Tensor
    weight: Tensor
    mean: Tensor
    variance: Tensor
    origin: Tensor
    axes: Tensor
    discriminant: Tensor

    def __init__(self, config: SpeakerJudgeConfig | None = None):
        super().__init__()
        self.config = c = config or SpeakerJudgeConfig()
        d, g = 2 * c.cepstra, c.gaussians
        order, band = torch.arange(1, c.cepstra + 1)[:, None], torch.arange(c.bands)
        cosines = torch.cos(math.pi / c.bands * (band + 0.5) * order) * (2 / c.bands) ** 0.5
        self.register_buffer("cosines", cosines, persistent=False)
        for name, shape in {
            "centre": (d,),
            "deviation": (d,),
            "weight": (g,),
            "mean": (g, d),
            "variance": (g, d),
            "origin": (g * d,),
            "axes": (g * d, c.axes),
            "discriminant": (c.axes, c.dims),
        }.items():
            self.register_buffer(name, torch.zeros(shape))

    def frames(self, mel: Tensor) -> Tensor:
        """Natural log-mel (M, T) -> cepstra and slopes (t, D) of the t frames with speech."""
        x = mel[: self.config.bands].float().t()
        loudness = x.mean(1)
        keep = loudness > loudness.quantile(0.9) - _QUIET
        cepstra = x @ self.cosines.t()
        ahead = F.pad(cepstra.t()[None], (2, 2), mode="replicate")[0].t()
        slopes = (ahead[4:] - ahead[:-4]) / 2 + (ahead[3:-1] - ahead[1:-3]) / 4
        return torch.cat([cepstra, slopes], dim=1)[keep]

    def supervector(self, mel: Tensor) -> Tensor:
        """Natural log-mel (M, T) -> (G D,): how far the mean of each sound lies from everybody's."""
        x = (self.frames(mel) - self.centre) / self.deviation
        share = self.posterior(x)
        n = share.sum(0)[:, None]
        shift = (share.t() @ x - n * self.mean) / (n + self.config.relevance)
        return (shift / self.variance.sqrt() * self.weight.sqrt()[:, None]).flatten()

    def posterior(self, x: Tensor) -> Tensor:
        """Frames (t, D), normalised -> which Gaussian each is of, (t, G)."""
        precision = 1 / self.variance
        distance = x.square() @ precision.t() - 2 * x @ (self.mean * precision).t()
        distance = distance + (self.mean.square() * precision + self.variance.log()).sum(1)
        return (self.weight.log() - distance / 2).softmax(1)

    def vector(self, mel: Tensor) -> Tensor:
        """Natural log-mel (M, T) -> the speaker vector (L,) of length 1."""
        return F.normalize((self.supervector(mel) - self.origin) @ self.axes @ self.discriminant, dim=0)


@torch.inference_mode()
def judged_voice(wav: np.ndarray, sample_rate: int) -> np.ndarray | None:
    """The vector (L,) of a recording (N,); None where there is hardly any speech. Raises MissingModelError without the
    weights."""
    judge, mel_frames = _judge()
    at_24k = resample(np.asarray(wav, np.float32)[None], sample_rate, RATE)[0]
    mel = mel_frames(torch.from_numpy(at_24k)[None])[0]
    if mel.shape[1] < _SHORTEST or not wav.any() or len(judge.frames(mel)) < _SHORTEST:
        return None
    return judge.vector(mel).numpy()


def likeness_by_judge(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Cosine of two recordings (N,), -1 to 1, nan where one cannot be judged; higher is more alike."""
    one, other = (judged_voice(wav, sample_rate) for wav in (reference, estimate))
    return math.nan if one is None or other is None else float(one @ other)


def find_judge() -> Path | None:
    """Its file, among the weights that ship or those in training; None without."""
    places = (WEIGHTS / FILE, WEIGHTS / "next" / FILE)
    return next((path for path in places if path.is_file()), None)


@lru_cache(maxsize=1)
def _judge() -> tuple[SpeakerJudge, MelFrames]:
    path = find_judge() or WEIGHTS / FILE
    return load_checkpoint(SpeakerJudge, SpeakerJudgeConfig, path, "speaker-judge"), MelFrames(RATE)
