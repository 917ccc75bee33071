"""What is in the corpus twice: the same samples, or the same words in nearly the same sound (another file format,
another level, a cut a few milliseconds away).

The fingerprint is that of Haitsma and Kalker (2002): one bit a band and frame, the sign of how the difference of two
neighbouring bands changes, from long windows with much overlap, so that a shift of some milliseconds turns few bits.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile

import numpy as np

RATE = 16_000  # Hz
WINDOW, HOP = 4096, 1024  # samples: 256 and 64 ms
BANDS = 17  # from 300 to 3000 Hz, of equal width in octaves: 16 bits a frame
MAX_SHIFT = 3  # frames by which two copies may be apart
MAX_ERROR = 0.25  # of the bits; unrelated sounds differ in half of them
MAX_SECONDS_APART = 0.5  # in length
_EDGES = np.geomspace(300, 3000, BANDS + 1) * WINDOW / RATE


def audio_hash(wav16: np.ndarray) -> str:
    """16 hexadecimal digits, equal for equal 16-bit samples (N,)."""
    pcm = np.clip(np.round(wav16 * 32767), -32768, 32767).astype("<i2")
    return hashlib.sha256(pcm.tobytes()).hexdigest()[:16]


def fingerprint(wav16: np.ndarray) -> str:
    """wav16 (N,) at 16 kHz to base64 of two bytes a frame."""
    padded = np.pad(np.asarray(wav16, np.float64), (0, max(0, WINDOW + HOP - len(wav16))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)) ** 2
    total = np.concatenate([np.zeros((len(power), 1)), np.cumsum(power, axis=1)], axis=1)
    edges = _EDGES.round().astype(int)
    energy = np.log(total[:, edges[1:]] - total[:, edges[:-1]] + 1e-9)
    bits = np.diff(np.diff(energy, axis=1), axis=0) > 0
    return base64.b64encode(np.packbits(bits, axis=1).tobytes()).decode("ascii")


def alike(one: str, other: str) -> bool:
    """Whether two fingerprints are of one sound."""
    a, b = (
        np.unpackbits(np.frombuffer(base64.b64decode(f), np.uint8).reshape(-1, 2), axis=1)
        for f in (one, other)
    )
    for shift in range(-MAX_SHIFT, MAX_SHIFT + 1):
        x, y = a[max(0, shift) :], b[max(0, -shift) :]
        n = min(len(x), len(y))
        if n and (x[:n] != y[:n]).mean() <= MAX_ERROR and n >= 0.8 * max(len(a), len(b)):
            return True
    return False


class Seen:
    """Pieces in order; `first` says which earlier one a piece repeats. Fingerprints wait in a temporary file: memory is
    a few hundred bytes a piece."""

    def __init__(self):
        self._hashes: dict[int, str] = {}
        # By text: key, seconds, place and length in the file.
        self._texts: dict[int, list[tuple[str, float, int, int]]] = {}
        self._prints = tempfile.TemporaryFile()  # noqa: SIM115 (it goes when we go)

    def first(
        self, key: str, duration: float, audio_hash: str, fingerprint: str, text: str | None
    ) -> str | None:
        """The key of the piece that this one repeats, or None and it is remembered.   duration: seconds."""
        sound = int(audio_hash, 16)
        if sound in self._hashes:
            return self._hashes[sound]
        words = "".join(c for c in (text or "").casefold() if c.isalnum())
        if words:
            told = int.from_bytes(hashlib.sha256(words.encode("utf-8", "replace")).digest()[:8], "big")
            said_before = self._texts.setdefault(told, [])
            for known, seconds, place, length in said_before:
                if abs(seconds - duration) <= MAX_SECONDS_APART:
                    self._prints.seek(place)
                    if alike(self._prints.read(length).decode("ascii"), fingerprint):
                        return known
            place = self._prints.seek(0, 2)
            self._prints.write(fingerprint.encode("ascii"))
            said_before.append((key, duration, place, len(fingerprint)))
        self._hashes[sound] = key
        return None
