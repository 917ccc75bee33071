"""Resampling in a stream, with exact lengths.

N input frames give ceil(N x rate_out / rate_in) output frames. Resampling back gives at least N, cut to N:
the length of a recording survives the way to a codec's rate and back to the sample.
"""

from __future__ import annotations

import numpy as np
import soxr


def resampled_length(n_frames: int, rate_in: int, rate_out: int) -> int:
    """Frames after resampling: the smallest number that covers the duration."""
    return -(-n_frames * rate_out // rate_in)


class Resampler:
    """A linear-phase resampler (soxr, 20 bit) fed in chunks of any length; the cuts do not change its output.

    Blocks are (C, n) float32. Equal rates pass through untouched.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int):
        self.rate_in, self.rate_out, self.channels = rate_in, rate_out, channels
        self.n_in = self.n_out = 0
        self._soxr = (
            None if rate_in == rate_out else soxr.ResampleStream(rate_in, rate_out, channels, "float32", "HQ")
        )

    def push(self, block: np.ndarray) -> np.ndarray:
        """(C, n) at the old rate to (C, m) at the new one, m >= 0."""
        self.n_in += block.shape[1]
        return self._emit(block)

    def flush(self) -> np.ndarray:
        """What is still owed; in all, `resampled_length` frames have then come out."""
        if self._soxr is None:
            return np.zeros((self.channels, 0), np.float32)
        owed = resampled_length(self.n_in, self.rate_in, self.rate_out) - self.n_out
        # soxr ends at the rounded length, which can be one short: two frames of silence more, then the cut.
        more = np.zeros((self.channels, 2 + 2 * self.rate_in // self.rate_out), np.float32)
        last = self._soxr.resample_chunk(np.ascontiguousarray(more.T), last=True).T
        self.n_out += owed
        return np.ascontiguousarray(last[:, :owed])

    def _emit(self, block: np.ndarray) -> np.ndarray:
        if self._soxr is None:
            return block
        out = self._soxr.resample_chunk(np.ascontiguousarray(block.T, dtype=np.float32)).T
        # Never more than the length so far covers: the flush cuts, it cannot take back.
        self.n_out += out.shape[1]
        return out


def resample(samples: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """A whole recording (C, N) at once, to (C, ceil(N x rate_out / rate_in))."""
    resampler = Resampler(rate_in, rate_out, samples.shape[0])
    return np.concatenate([resampler.push(np.asarray(samples, np.float32)), resampler.flush()], axis=1)
