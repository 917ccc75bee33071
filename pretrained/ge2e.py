"""Speaker vectors: the GE2E network (Wan et al. 2018) with the weights of Resemblyzer (Apache-2.0).

    samples at 16 kHz -> mel power (40 bands, 100 Hz) -> windows of 1.6 s -> three LSTMs -> the last state -> length 1

The vector of a recording is the mean over its windows, of length 1. Recordings of one person have a cosine of .77 to
.91, of different people .50 to .59.

Shapes: B batch, N samples at 16 kHz, W windows, T frames of 10 ms, E = 256.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.checkpoint import load_strictly, read_safetensors
from ..layers.mel import mel_filterbank

RATE = 16_000
DIMS = 256
SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "ge2e.safetensors"
CENTRE = SHIPPED.with_name("ge2e.centre.safetensors")
_MELS, _N_FFT, _HOP = 40, 400, 160
_WINDOW = 160  # frames
LEVEL = 10 ** (-30 / 20)  # root mean square that the network was trained at


class GE2E(nn.Module):
    """Waveforms to speaker vectors. Names are those of the published weights."""

    window: Tensor
    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, DIMS, 3, batch_first=True)
        self.linear = nn.Linear(DIMS, DIMS)
        self.register_buffer("window", torch.hann_window(_N_FFT), persistent=False)
        self.register_buffer("bank", mel_filterbank(RATE, _N_FFT, _MELS), persistent=False)

    def forward(self, mels: Tensor) -> Tensor:
        """Mel power of windows (W, T, M) -> vectors (W, E) of length 1."""
        hidden = self.lstm(mels)[1][0][-1]
        return F.normalize(self.linear(hidden).relu(), dim=1)

    def mel(self, wav: Tensor) -> Tensor:
        """wav (B, N) -> mel power (B, T, M), T = 1 + N // 160."""
        spectrum = torch.stft(
            wav,
            _N_FFT,
            _HOP,
            window=self.window.to(wav.dtype),
            pad_mode="constant",
            return_complex=True,
        )
        return (self.bank.to(wav.dtype) @ spectrum.abs().square()).transpose(1, 2)

    def windows(self, wav: Tensor, hop: int = 50) -> Tensor:
        """wav (N,) -> vectors (W, E), one every `hop` frames of 10 ms; at the level that it has."""
        return self(cut(self.mel(wav[None])[0], hop))

    @torch.inference_mode()
    def vector(self, wav: Tensor) -> Tensor:
        """The speaker vector (E,) of a recording (N,) at any level. A silent one gives zeros."""
        level = wav.square().mean().sqrt()
        if not float(level) > 1e-6:
            return wav.new_zeros(DIMS)
        return F.normalize(self.windows(wav * (LEVEL / level), hop=80).mean(0), dim=0)


def cut(mel: Tensor, hop: int) -> Tensor:
    """Mel power (T, M) -> windows (W, 160, M) every `hop` frames, the last at the end; a short one is filled with
    silence."""
    if len(mel) < _WINDOW:
        mel = F.pad(mel, (0, 0, 0, _WINDOW - len(mel)))
    starts = [*range(0, len(mel) - _WINDOW, hop), len(mel) - _WINDOW]
    return torch.stack([mel[start : start + _WINDOW] for start in starts])


@lru_cache(maxsize=2)
def load_ge2e(path: str | Path = SHIPPED, device: str = "cpu") -> GE2E:
    """The network that ships, or of a file, float32, in evaluation mode."""
    model = GE2E()
    load_strictly(model, read_safetensors(path).weights, path)
    return model.float().to(device).eval()


@lru_cache(maxsize=1)
def load_centre() -> Tensor:
    """The mean (E,) of the vectors of many people, from which those of single people are best told apart."""
    return read_safetensors(CENTRE).weights["centre"].float()


def from_resemblyzer() -> GE2E:
    """The network with the weights of the installed package. Raises FileNotFoundError without it."""
    spec = find_spec("resemblyzer")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package resemblyzer is not installed: pip install resemblyzer")
    path = Path(spec.submodule_search_locations[0]) / "pretrained.pt"
    weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    model = GE2E()
    model.load_state_dict({key: weights[key] for key in model.state_dict()})
    return model.eval()
