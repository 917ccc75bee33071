"""Faster or slower speech at the same pitch: waveform-similarity overlap-add, in a stream.

Verhelst and Roelands, "An overlap-add technique based on waveform similarity (WSOLA) for high quality time-scale
modification of speech", ICASSP 1993.

    input      ....[ segment k ]..........[ segment k+1 ]....    every hop * speed samples, give or take
    output     [ segment k ]                                     every hop samples
                     [ segment k+1 ]                             the better it continues k, the less is heard

Shapes: n samples of one channel.
"""

from __future__ import annotations

import numpy as np

SLOWEST, FASTEST = 0.25, 4.0  # as far as OpenAI's speech API goes; beyond half and twice it is hard to follow
_HOP = 0.015  # seconds between output segments, each two hops long
_SEARCH = 0.0075  # seconds that a segment may be moved either way: half a period of a voice at 67 Hz


class Tempo:
    """Feed chunks (n,), get about n / speed samples back; the cuts do not change them. 1.0 changes nothing."""

    def __init__(self, sample_rate: int, speed: float):
        self.speed = speed
        self.hop, self.search = round(_HOP * sample_rate), round(_SEARCH * sample_rate)
        n = np.arange(2 * self.hop)
        self._window = (0.5 - 0.5 * np.cos(np.pi * (n + 0.5) / self.hop)).astype(np.float32)
        # Silence before the beginning, so that the first segment fades in over nothing.
        self._buffer, self._base = np.zeros(self.hop + self.search, np.float32), -self.hop - self.search
        self._k, self._at = 0, -self.hop  # the next segment, and where the last one began
        self._overlap = np.zeros(self.hop, np.float32)
        self._n_in = self._n_out = 0

    def push(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float32)
        self._n_in += len(x)
        if self.speed == 1.0:
            return x
        return self._run(x)

    def flush(self) -> np.ndarray:
        """What is still owed; in all, round(n / speed) samples have then come out."""
        if self.speed == 1.0:
            return np.zeros(0, np.float32)
        owed = round(self._n_in / self.speed) - self._n_out
        more = np.zeros(round(self.hop * (3 + 3 * self.speed)) + 2 * self.search, np.float32)
        last = self._run(more)
        last = np.concatenate([last, np.zeros(max(0, owed - len(last)), np.float32)])
        return last[: max(0, owed)]

    def _run(self, x: np.ndarray) -> np.ndarray:
        self._buffer = np.concatenate([self._buffer, x])
        parts = [x[:0]]
        while self._needed() <= self._base + len(self._buffer):
            parts.append(self._segment(self._wanted()))
        keep = min(self._wanted() - self.search, self._at + self.hop) - self._base
        if keep > 0:
            self._buffer, self._base = self._buffer[keep:], self._base + keep
        out = np.concatenate(parts)
        self._n_out += len(out)
        return out

    def _wanted(self) -> int:
        """Where in the input the next segment would begin if nothing but the speed counted."""
        return round((self._k - 1) * self.hop * self.speed) if self._k else -self.hop

    def _needed(self) -> int:
        """How much of the input the next segment looks at."""
        return max(self._wanted() + self.search, self._at + self.hop) + 2 * self.hop

    def _segment(self, wanted: int) -> np.ndarray:
        """The next segment laid over the last; the hop of output that is complete by it."""
        if self._k == 0:
            at = wanted
        else:
            follows = self._slice(self._at + self.hop, 2 * self.hop)  # what would continue the last one
            around = self._slice(wanted - self.search, 2 * self.hop + 2 * self.search)
            likeness = np.correlate(around, follows, "valid")
            power = np.concatenate([[0.0], np.cumsum(np.square(around, dtype=np.float64))])
            power = power[2 * self.hop :] - power[: len(likeness)]
            at = wanted - self.search + int(np.argmax(likeness / np.sqrt(np.maximum(power, 1e-9))))
        segment = self._slice(at, 2 * self.hop) * self._window
        out = self._overlap + segment[: self.hop]
        self._overlap, self._at = segment[self.hop :], at
        self._k += 1
        return out if self._k > 1 else out[:0]

    def _slice(self, start: int, n: int) -> np.ndarray:
        start -= self._base
        return self._buffer[start : start + n]
