"""Speech to the bytes of a file while it is made: WAV, raw PCM, MP3, FLAC, Opus and AAC.

A file in a stream cannot know its length: its header says "unknown" and is never corrected. All but PCM carry the tag
that says that the speech is synthetic.

Shapes: n samples of one channel.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, cast

import numpy as np

from ....data.wav import WavWriter, to_int16
from ....errors import UsageError


class Encoder(Protocol):
    """Samples (n,) float32 in, bytes out."""

    def push(self, samples: np.ndarray) -> bytes: ...

    def flush(self) -> bytes:
        """The end of the file."""
        ...


class _Sink(io.RawIOBase):
    """A file that cannot seek and is emptied as it is written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


class PcmEncoder:
    """16 bits, little-endian, no header, and so no tag: the response's headers have it."""

    def __init__(self, sample_rate: int, tags: Mapping[str, str]):
        pass

    def push(self, samples: np.ndarray) -> bytes:
        return to_int16(samples).tobytes()

    def flush(self) -> bytes:
        return b""


class WavEncoder:
    """One header of unknown length, then PCM."""

    def __init__(self, sample_rate: int, tags: Mapping[str, str]):
        self._sink = _Sink()
        self._writer = WavWriter(cast(BinaryIO, self._sink), sample_rate, 1, tags=tags)

    def push(self, samples: np.ndarray) -> bytes:
        self._writer.write(samples[None])
        return self._sink.taken()

    def flush(self) -> bytes:
        self._writer.close()
        return self._sink.taken()


class FfmpegEncoder:
    """A format of FFmpeg's, through PyAV. Packets leave as soon as they are full."""

    def __init__(self, sample_rate: int, tags: Mapping[str, str], kind: Kind):
        import av

        self._sink, self.sample_rate = _Sink(), sample_rate
        options = {"flush_packets": "1", **kind.options}
        self._container: Any = av.open(
            self._sink, "w", format=kind.container, options=options, buffer_size=1024
        )
        for name, text in tags.items():
            self._container.metadata[name] = text
        self._stream: Any = self._container.add_stream(kind.codec, rate=sample_rate)
        self._stream.layout, self._stream.format = "mono", kind.sample_format
        if kind.bit_rate:
            self._stream.bit_rate = kind.bit_rate
        self._resampler = av.AudioResampler(kind.sample_format, "mono", sample_rate)
        self._n = 0

    def push(self, samples: np.ndarray) -> bytes:
        if not len(samples):
            return b""
        import av

        frame = av.AudioFrame.from_ndarray(to_int16(samples)[None], "s16", "mono")
        frame.sample_rate, frame.pts = self.sample_rate, self._n
        self._n += len(samples)
        for converted in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(converted))
        return self._sink.taken()

    def flush(self) -> bytes:
        for converted in self._resampler.resample(None):
            self._container.mux(self._stream.encode(converted))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.taken()


@dataclass(frozen=True)
class Kind:
    """One of FFmpeg's containers with a codec."""

    container: str
    codec: str
    sample_format: str
    bit_rate: int = 0
    options: Mapping[str, str] = ()  # pyright: ignore[reportAssignmentType]

    def __call__(self, sample_rate: int, tags: Mapping[str, str]) -> FfmpegEncoder:
        return FfmpegEncoder(sample_rate, tags, self)


@dataclass(frozen=True)
class Format:
    """media_type: of the response."""

    media_type: str
    encoder: Callable[[int, Mapping[str, str]], Encoder]


FORMATS: dict[str, Format] = {
    # Without the Xing header, which a stream could not fill in; with an ID3 tag.
    "mp3": Format(
        "audio/mpeg",
        Kind("mp3", "libmp3lame", "s16p", 64_000, {"write_xing": "0", "id3v2_version": "3"}),
    ),
    # Pages of 100 ms: a page of a second, as is usual, would hold the first sound back.
    "opus": Format("audio/opus", Kind("ogg", "libopus", "s16", 32_000, {"page_duration": "100000"})),
    "aac": Format("audio/aac", Kind("adts", "aac", "fltp", 64_000, {"write_id3v2": "1"})),
    "flac": Format("audio/flac", Kind("flac", "flac", "s16", 0, {})),
    "wav": Format("audio/wav", WavEncoder),
    "pcm": Format("audio/pcm", PcmEncoder),
}


def find_format(name: str) -> Format:
    """Raises UsageError for a name that no format has."""
    if name not in FORMATS:
        raise UsageError(f"response_format is {name!r}; choose {', '.join(FORMATS)}")
    return FORMATS[name]
