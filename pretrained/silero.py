"""Voice activity detection: Silero's detector (silero-vad 6, MIT), a probability every 32 ms.

The published weights in PyTorch of ours: a short Fourier transform, four convolutions, an LSTM. What a frame needs of
the samples is independent of the other frames, so that all frames of a block go through the convolutions at once and
only the LSTM walks; the scripted original walks through everything. Its state is an argument: audio may come in
chunks of any length, for hours.

The weights are read from the installed package without importing it, since `import silero_vad` limits torch to one
thread for the whole process.

Shapes: N samples at 16 kHz, F frames of 512 samples.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.checkpoint import uninitialized
from ..errors import MissingModelError

RATE = 16_000  # Hz
FRAME = 512  # samples a frame, 32 ms
_CONTEXT = 64  # samples before a frame that it sees too
_BLOCK = 512  # frames that go through the convolutions at once: 16 s


def speech_probability(samples: np.ndarray) -> np.ndarray:
    """samples (N,) at 16 kHz -> (F,), the probability of speech in each 32 ms, the last filled up with silence.

    Raises MissingModelError where silero-vad is not installed.
    """
    detector = VoiceActivity()
    return np.concatenate([detector.push(samples), detector.flush()])


class VoiceActivity:
    """The detector over audio that comes in chunks; in all, one probability for every 512 samples begun.

    Raises MissingModelError where silero-vad is not installed.

    >>> detector = VoiceActivity()
    >>> for chunk in microphone:  # (n,) at 16 kHz
    ...     use(detector.push(chunk))
    """

    def __init__(self) -> None:
        self._model = _model()
        self._heard = torch.zeros(_CONTEXT)  # the context of the next frame, then what of it is there already
        self._state: tuple[Tensor, Tensor] | None = None

    def push(self, samples: np.ndarray) -> np.ndarray:
        """(n,) -> (m,): the probabilities of the frames that these samples complete, m >= 0."""
        made = [np.zeros(0, np.float32)]
        for first in range(0, len(samples), _BLOCK * FRAME):
            block = np.ascontiguousarray(samples[first : first + _BLOCK * FRAME], np.float32)
            self._heard = torch.cat([self._heard, torch.from_numpy(block)])
            made.append(self._run((len(self._heard) - _CONTEXT) // FRAME))
        return np.concatenate(made)

    def flush(self) -> np.ndarray:
        """(0,) or (1,): the last frame, filled up with silence, if one was begun. The state then is a new one's."""
        begun = len(self._heard) - _CONTEXT
        self._heard = F.pad(self._heard, (0, -begun % FRAME))
        made = self._run(1 if begun else 0)
        self._heard, self._state = torch.zeros(_CONTEXT), None
        return made

    @torch.inference_mode()
    def _run(self, n_frames: int) -> np.ndarray:
        if n_frames == 0:
            return np.zeros(0, np.float32)
        frames = self._heard[: _CONTEXT + n_frames * FRAME].unfold(0, _CONTEXT + FRAME, FRAME)
        probability, self._state = self._model(frames, self._state)
        self._heard = self._heard[n_frames * FRAME :].clone()
        return probability.numpy()


class _Silero(nn.Module):
    """Frames with their context (F, 576) -> (F,) probabilities, and the state for the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.empty(258, 1, 256))  # windowed cosines, then sines, of the transform
        self.convs = nn.ModuleList(
            nn.Conv1d(n_in, n_out, 3, stride=stride, padding=1)
            for n_in, n_out, stride in ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        )
        self.lstm = nn.LSTM(128, 128)
        self.out = nn.Linear(128, 1)

    def forward(
        self, frames: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        padded = F.pad(frames[:, None], (0, 64), mode="reflect")
        cosines, sines = F.conv1d(padded, self.basis, stride=128).chunk(2, dim=1)
        x = (cosines.square() + sines.square()).sqrt()  # (F, 129, 4)
        for conv in self.convs:
            x = F.relu(conv(x))  # (F, 128, 1) after the last
        x, after = self.lstm(x.squeeze(-1), state)
        return self.out(F.relu(x)).sigmoid().squeeze(-1), after


@lru_cache(maxsize=1)
def _model() -> _Silero:
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise MissingModelError("finding the speech in a recording needs silero-vad; pip install silero-vad")
    path = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit"
    with uninitialized():
        model = _Silero()
    try:
        weights = torch.jit.load(str(path), map_location="cpu").state_dict()
        model.load_state_dict(
            {
                ours: weights[f"_model.{theirs}"].reshape(model.get_parameter(ours).shape)
                for ours, theirs in _names()
            }
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:80]
        raise MissingModelError(f"{path} cannot be read ({reason}); install silero-vad again") from None
    return model.requires_grad_(False).eval()


def _names() -> list[tuple[str, str]]:
    """Parameters here, and in the published file."""
    names = [("basis", "stft.forward_basis_buffer")]
    for part in ("weight", "bias"):
        names += [(f"convs.{i}.{part}", f"encoder.{i}.reparam_conv.{part}") for i in range(4)]
        names += [(f"lstm.{part}_{gate}_l0", f"decoder.rnn.{part}_{gate}") for gate in ("ih", "hh")]
        names.append((f"out.{part}", f"decoder.decoder.2.{part}"))
    return names
