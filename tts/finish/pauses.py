"""The silence at both ends of a sentence, brought to a known length as the sentence streams by.

Shapes: n samples of one channel.
"""

from __future__ import annotations

import numpy as np

_STEP = 0.01  # seconds over which a level is measured
_THRESHOLD = 10 ** (-55 / 10)  # mean power; speech is levelled to -23 dB before it comes here
_FADE_IN, _FADE_OUT = 0.005, 0.03  # seconds


class Trimmer:
    """Cuts the silence before and after a sentence down to `lead` and `tail` seconds.

    Silence inside passes whole: it is held back until speech goes on, which delays no speech. Both ends are
    faded, so that a sentence that begins or ends within a sound does not click. The cuts between chunks do not
    change the output.
    """

    def __init__(self, sample_rate: int, lead: float = 0.05, tail: float = 0.12):
        self.step = max(1, round(_STEP * sample_rate))
        self._lead, self._tail = round(lead * sample_rate), round(tail * sample_rate)
        self._fade_in = max(1, round(_FADE_IN * sample_rate))
        self._fade_out = max(1, round(_FADE_OUT * sample_rate))
        self._rest = np.zeros(0, np.float32)  # less than a step
        self._held = np.zeros(0, np.float32)  # silence that may be the end, and the last step of speech
        self._speaking, self._n_out = False, 0
        self.n_cut = 0  # samples of the silence before the speech that did not come out

    def push(self, x: np.ndarray) -> np.ndarray:
        """(n,) -> (m,), what is certain to be kept."""
        x = np.concatenate([self._rest, np.asarray(x, np.float32)])
        whole = len(x) // self.step * self.step
        self._rest = x[whole:]
        steps = x[:whole].reshape(-1, self.step)
        loud = np.flatnonzero(np.square(steps).mean(axis=1) > _THRESHOLD)
        held = np.concatenate([self._held, x[:whole]])
        if not len(loud):
            dropped = 0 if self._speaking else max(0, len(held) - self._lead)
            self._held, self.n_cut = held[dropped:], self.n_cut + dropped
            return held[:0]
        if not self._speaking:
            self._speaking = True
            first = len(self._held) + int(loud[0]) * self.step
            held, cut = held[max(0, first - self._lead) :], max(0, first - self._lead)
            self.n_cut += cut
        else:
            cut = 0
        # The last loud step stays until it is known what follows: it may have to be faded out.
        ready = len(self._held) - cut + int(loud[-1]) * self.step
        self._held = held[ready:]
        return self._faded_in(held[:ready])

    def flush(self) -> np.ndarray:
        """The end of the sentence, faded out; nothing if there was no sound at all."""
        if not self._speaking:
            return self._held[:0]
        last = np.concatenate([self._held, self._rest])[: self.step + self._tail]
        last = self._faded_in(last).copy()
        n = min(len(last), self._fade_out)
        last[len(last) - n :] *= np.linspace(1, 0, n, dtype=np.float32)
        return last

    def _faded_in(self, x: np.ndarray) -> np.ndarray:
        n = min(len(x), self._fade_in - self._n_out)
        if n > 0:
            x = x.copy()
            x[:n] *= (self._n_out + np.arange(1, n + 1, dtype=np.float32)) / self._fade_in
        self._n_out += len(x)
        return x
