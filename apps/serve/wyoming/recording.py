"""What somebody says to Home Assistant, while it comes: of any rate, kept at 16 kHz and on the disk.

Shapes: N samples of one channel.
"""

from __future__ import annotations

import numpy as np
from starlette.concurrency import run_in_threadpool

from ....asr.model.features import SAMPLE_RATE
from ....data.resample import Resampler
from ....errors import UsageError
from ..audio.stored import StoredSamples
from ..options import Limits
from ..problems import TooLargeError

_BLOCK = (
    1 << 16
)  # bytes, two seconds of what satellites send: a thread for each of their 20 ms would cost more than this
_RATES, _CHANNELS = range(8_000, 192_001), range(1, 9)


class Recording:
    """Samples of 16 bits, channels side by side.

    rate: Hz.   width: bytes of a sample.
    Raises UsageError for what it does not take.

    >>> await recording.push(data)
    >>> (await recording.finished())[: 30 * 16_000]
    >>> recording.close()
    """

    def __init__(self, rate: int, width: int, channels: int, limits: Limits):
        if width != 2 or rate not in _RATES or channels not in _CHANNELS:
            raise UsageError(
                f"expected audio of 16-bit samples, {_RATES[0]} to {_RATES[-1]} Hz and up to {_CHANNELS[-1]} channels, "
                f"not of {str(width)[:20]} bytes, {str(rate)[:20]} Hz and {str(channels)[:20]} channels"
            )
        self._limits, self._rate, self._channels = limits, rate, channels
        self._resampler = Resampler(rate, SAMPLE_RATE, 1)
        self._samples = StoredSamples(SAMPLE_RATE)
        self._waiting, self._n = bytearray(), 0

    async def push(self, data: bytes) -> None:
        """Of any length. Raises TooLargeError, and OSError where the disk is full."""
        self._n += len(data)
        if self._n > self._limits.upload_bytes:
            raise TooLargeError(
                f"the recording is longer than {self._limits.upload_bytes >> 20} MB; send it in parts"
            )
        if self._n > self._limits.seconds * self._rate * 2 * self._channels:
            raise TooLargeError(f"the recording is longer than {self._limits.seconds:g} s; send it in parts")
        self._waiting += data
        if len(self._waiting) >= _BLOCK:
            await run_in_threadpool(self._store)

    async def finished(self) -> StoredSamples:
        """(N,) at 16 kHz. Raises UsageError where there are none, and OSError."""
        await run_in_threadpool(self._store, last=True)
        if not len(self._samples):
            raise UsageError("expected audio of 16-bit samples between audio-start and audio-stop")
        return self._samples

    def _store(self, last: bool = False) -> None:
        whole = len(self._waiting) // (2 * self._channels) * 2 * self._channels
        data = bytes(self._waiting[:whole])
        del self._waiting[:whole]
        x = np.frombuffer(data, "<i2").astype(np.float32).reshape(-1, self._channels).T / 32768
        made = self._resampler.push(x.mean(axis=0, keepdims=True))[0]
        if last:
            made = np.concatenate([made, self._resampler.flush()[0]])
        self._samples.append(made.astype(np.float32, copy=False).tobytes())

    def close(self) -> None:
        self._samples.close()
