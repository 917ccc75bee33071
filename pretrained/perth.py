"""Perth, Resemble AI's neural watermark (resemble-perth, MIT): its mark as a filter, and its detector.

The detector looks at the spectrum below 2 kHz in steps of 15.6 Hz and gives one number, near 1 with the mark and
near 0 without. The encoder was trained to add the mark to a spectrogram, and what it learnt to add is nearly the same
for any audio: a comb of +-2 dB that moves by 0.2 dB with the content. So the comb was measured once, on noise
(`perth_comb.txt`), and speech is marked with a filter that has it: no look-ahead, where the encoder itself needs
0.2 s, and the detector cannot tell the difference (tests/marks/test_watermark.py). The network is loaded only to
detect the mark.

Weights and shapes are the package's, but nothing of it is imported: it needs pkg_resources, which new Pythons lack,
puts a dummy in its own place where that fails, and prints to standard output.

Shapes: N samples, F spectral bins of 15.625 Hz, T frames of 10 ms.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.checkpoint import load_strictly, uninitialized
from ..errors import MissingModelError

RATE = 16_000  # Hz, of what the detector is given; all it looks at lies below 2 kHz
BINS, BIN_HZ = 128, 15.625
WINDOW_SECONDS, HOP_SECONDS = 0.064, 0.01
SHA256 = "a15bce457ebc53ce5e6c9c3f11df78cf7ee2bf9cdab0a798902135b4c4027670"
_PERTH_RATE = 32_000  # magnitudes are on the scale of a window at this rate
_RANGE_DB, _FLOOR_DB = 195.0, -180.0  # magnitudes from -180 to 15 dB become 0 to 1
_COLOUR_BINS = 17  # 270 Hz; over 9 bins the detector becomes unsure (0.78 to 1 instead of 1)
COMB = Path(__file__).with_name("perth_comb.txt")  # a line a bin
_REMEDY = "pip install --force-reinstall resemble-perth==1.0.1"


class _Conv(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel_size: int, activate: bool = True):
        super().__init__()
        self.conv = nn.Conv1d(n_in, n_out, kernel_size, padding=kernel_size // 2)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.leaky_relu(x) if self.activate else x


def _layers(n_out: int, width: int = 256) -> nn.Sequential:
    inner = [_Conv(width, width, 7) for _ in range(5)]
    return nn.Sequential(_Conv(BINS, width, 1), *inner, _Conv(width, n_out, 1, activate=False))


class Encoder(nn.Module):
    """Magnitudes (B, F, T) -> what to add to them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _layers(BINS)

    def forward(self, magnitudes: Tensor) -> Tensor:
        return self.layers(magnitudes)


class Decoder(nn.Module):
    """Magnitudes (B, F, T) and the frames that count (B, T) -> confidence (B,): near 1 with the mark.

    Three opinions, on the signal as it is and played slower and faster, weighed by attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slow_layers, self.normal_layers, self.fast_layers = _layers(2), _layers(2), _layers(2)

    def forward(self, magnitudes: Tensor, mask: Tensor) -> Tensor:
        attention, marks = [], []
        for layers, tempo in (
            (self.slow_layers, 1.25),
            (self.normal_layers, 1.0),
            (self.fast_layers, 0.75),
        ):
            n = int(magnitudes.shape[-1] * tempo)
            x = magnitudes
            if tempo != 1:
                x = F.interpolate(x, size=n, mode="linear", align_corners=True)
            counts = F.interpolate(mask[:, None], size=n, mode="nearest")
            mean = (layers(x) * counts).sum(-1) / counts.sum(-1).clamp(min=1)
            attention.append(mean[:, 0])
            marks.append(mean[:, 1])
        weights = torch.stack(attention, 1).softmax(1)
        return (weights * torch.stack(marks, 1)).sum(1)


class PerthNet(nn.Module):
    """Encoder and decoder, under the names of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()


@lru_cache(maxsize=1)
def load_perth() -> PerthNet:
    """The network with the published weights. Raises MissingModelError as `_published_weights` does."""
    with uninitialized():
        model = PerthNet()
    load_strictly(model, _published_weights(), "Perth's network")
    return model.eval()


def _published_weights() -> dict[str, Tensor]:
    """Of encoder and decoder, from the installed package. Raises MissingModelError unless they are there and are the
    very ones that were published."""
    spec = find_spec("perth")
    if spec is None or not spec.submodule_search_locations:
        raise MissingModelError(
            f"the watermark cannot be detected without the package resemble-perth; {_REMEDY}"
        )
    folder = Path(spec.submodule_search_locations[0]) / "perth_net" / "pretrained" / "implicit"
    path = folder / "perth_net_250000.pth.tar"
    try:
        content = path.read_bytes()
    except OSError:
        raise MissingModelError(f"the watermark cannot be detected: {path} is missing; {_REMEDY}") from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise MissingModelError(
            f"the watermark cannot be detected: {path} is not the published watermarker; {_REMEDY}"
        )
    weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
    return {name: value for name, value in weights.items() if re.match("encoder|decoder", name)}


def spectrum(samples: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """samples (N,) -> normalised magnitudes (F, T) below 2 kHz, and which frames hold sound (T,).

    The window lasts as long as Perth's, so the bins are the same at any rate that is a multiple of 1000.
    """
    n = round(WINDOW_SECONDS * sample_rate)
    window = torch.hann_window(n)
    hop = round(HOP_SECONDS * sample_rate)
    stft = torch.stft(samples, n, hop, n, window, center=True, pad_mode="constant", return_complex=True)
    magnitudes = 20 * (stft.abs() * _PERTH_RATE / sample_rate).clamp(min=1e-9).log10()
    magnitudes = (magnitudes - _FLOOR_DB) / _RANGE_DB
    level = magnitudes.sum(0)
    return magnitudes[:BINS], (level > 0.05 * level.max()).float()


@lru_cache(maxsize=1)
def comb() -> tuple[float, ...]:
    """What the mark adds to each bin, in dB (F,): `measured_comb`, once. Raises MissingModelError, one line, where the
    table is not installed."""
    try:
        return tuple(map(float, COMB.read_text("utf-8").split()))
    except OSError:
        raise MissingModelError(
            f"speech cannot be watermarked: {COMB} is missing; install myna again"
        ) from None


def measured_comb() -> tuple[float, ...]:
    """What the mark adds to each bin, in dB (F,): the encoder's answer to two seconds of noise, averaged, but for what
    it adds to all bins around: that is nothing to the detector, and colours a voice (0.01 of similarity)."""
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        magnitudes, _ = spectrum(0.05 * torch.randn(2 * RATE, generator=generator), RATE)
        added = load_perth().encoder(magnitudes[None])[0, :, 20:-20].mean(1) * _RANGE_DB
        window = torch.hann_window(_COLOUR_BINS + 2, periodic=False)[1:-1]
        around = F.pad(added[None], (_COLOUR_BINS // 2,) * 2, mode="reflect")[None]
        added = added - F.conv1d(around, (window / window.sum())[None, None])[0, 0]
    return tuple(added.tolist())


@torch.inference_mode()
def confidence(samples: np.ndarray) -> float:
    """samples (N,) at 16 kHz -> near 1 with the mark, near 0 without; 0 for silence or less than 0.1 s."""
    if len(samples) < RATE // 10 or not np.any(samples):
        return 0.0
    magnitudes, mask = spectrum(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), RATE)
    return float(load_perth().decoder(magnitudes[None], mask[None])[0].clamp(0, 1))
