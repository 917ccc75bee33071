"""Whether a recording holds two people, by Resemblyzer's speaker embeddings where that package is installed.

The speech is embedded in windows of 1.6 s (Wan et al. 2018, GE2E: a mel spectrogram, three LSTMs, the last state);
two people are two groups of windows, those of one stretch and all others, whose mean embeddings differ more than one
person's do. Only the weights are taken from the package: to import it takes seconds, and pkg_resources.

Shapes: N samples at 16 kHz, W windows, T frames of 10 ms, D embedding.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...layers.mel import mel_filterbank
from ...pretrained.silero import RATE

_MELS, _WIDTH = 40, 256
_N_FFT, _FRAME = 400, 160  # samples
_WINDOW, _HOP = 160, 50  # frames
_SHORTEST = 2 * RATE  # of speech: two windows that do not see nearly the same
_LEVEL = 10 ** (-30 / 20)  # root mean square that the network was trained at
# Of 1482 recordings of 160 people of the corpora, alone and in rows of three, three gave less than this; of 160 of two
# people, 70 % where one follows the other, half where one interrupts the other, two fifths where they take turns.
_SAME = 0.70


class SpeakerEncoder(nn.Module):
    """Mel spectrograms (W, T, M) -> embeddings (W, D) of length 1. Names are those of the published weights."""

    stft_window: Tensor
    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, _WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)
        self.register_buffer("stft_window", torch.hann_window(_N_FFT), persistent=False)
        self.register_buffer("bank", mel_filterbank(RATE, _N_FFT, _MELS), persistent=False)

    def forward(self, mels: Tensor) -> Tensor:
        hidden = self.lstm(mels)[1][0][-1]
        return nn.functional.normalize(self.linear(hidden).relu(), dim=1)

    def mel(self, speech: Tensor) -> Tensor:
        """speech (N,) -> mel power (T, M), 100 frames a second."""
        spectrum = torch.stft(
            speech, _N_FFT, _FRAME, window=self.stft_window, pad_mode="constant", return_complex=True
        )
        return (self.bank @ spectrum.abs().square()).T

    def windows(self, speech: Tensor) -> Tensor:
        """speech (N,) -> embeddings (W, D), one every half second."""
        mel = self.mel(speech)
        starts = [*range(0, len(mel) - _WINDOW, _HOP), len(mel) - _WINDOW]
        return self(torch.stack([mel[start : start + _WINDOW] for start in starts]))


@torch.inference_mode()
def holds_two_voices(speech: np.ndarray) -> bool:
    """speech (N,) at 16 kHz without its pauses. False as well where it cannot be told: without Resemblyzer, or with
    less than two seconds."""
    encoder = load_encoder()
    if encoder is None or len(speech) < _SHORTEST:
        return False
    level = np.sqrt(np.mean(np.square(speech, dtype=np.float64)))
    speech = (speech * (_LEVEL / max(level, 1e-9))).astype(np.float32)
    return likeness(encoder.windows(torch.from_numpy(speech))) < _SAME


def likeness(voices: Tensor) -> float:
    """Cosine between the mean embeddings (W, D) of the stretch that differs most and of all else; 1 for one window. A
    stretch in the middle has two windows or more."""
    n = len(voices)
    total = torch.cat([torch.zeros(1, voices.shape[1]), voices.cumsum(0)])
    ends = [(0, j) for j in range(1, n)] + [(i, j) for i in range(1, n) for j in range(i + 2, n)]
    inside = torch.stack([total[j] - total[i] for i, j in ends]) if ends else total[:0]
    return float(torch.cosine_similarity(inside, total[-1] - inside).min()) if ends else 1.0


@lru_cache(maxsize=1)
def load_encoder() -> SpeakerEncoder | None:
    """The encoder with the weights of the installed package; None without it, or if they are not what they were."""
    spec = find_spec("resemblyzer")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "pretrained.pt"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        model = SpeakerEncoder()
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
    except (OSError, KeyError, RuntimeError, ValueError, TypeError):
        return None
    return model.eval()
