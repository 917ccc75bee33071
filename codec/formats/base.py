"""What a compressed file looks like to the rest of the house, whichever format it is in.

Shapes: S streams of codes (audio channels coded side by side, in the batch axis), K codebooks, T frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor


@dataclass(frozen=True)
class FileInfo:
    """The facts that a compressed file states about itself.

    format: "myna", "ecdc" or "dac".
    model: registry name of the codec ("myna-24k"), None when the file does not say.
    weights_hash: first 16 hex digits of the sha256 of the codec's weights, "" when the file does not say.
    sample_rate, frame_size: of the codec, Hz and samples a frame; 0 when the file does not say (.dac).
    n_codebooks: in this file, which may be fewer than the model has.   codebook_size: entries of each.
    streams: S, rows of codes; with streams == channels > 1 the channels were coded side by side.
    original_sample_rate, channels, n_samples: what decoding must give back: Hz, audio channels, length in
        samples (per channel) at the original rate; None while it is not known (a pipe that has not ended).
    skip: samples at the original rate to drop from the start of the decoded audio; n_samples counts what
    follows.
    packet_frames: frames of all packets but the last.
    scaled: each packet carries the loudness of its segment (EnCodec 48 kHz).
    entropy_coder: "packed", "context" (.myna), "arithmetic" (.ecdc with language model) or "none" (.dac).
    input_db: loudness to restore, in dB LUFS (.dac), else None.
    separate_chunks: each packet was coded by convolutions without padding and is decoded so, on its own
    (.dac).
    synthetic: the recording was speech that Myna said, and is to be watermarked again when it is decoded (.myna).
    """

    format: str
    model: str | None
    weights_hash: str
    sample_rate: int
    frame_size: int
    n_codebooks: int
    codebook_size: int
    streams: int
    original_sample_rate: int
    channels: int
    n_samples: int | None
    skip: int = 0
    packet_frames: int = 0
    scaled: bool = False
    entropy_coder: str = "packed"
    input_db: float | None = None
    separate_chunks: bool = False
    synthetic: bool = False

    @property
    def duration(self) -> float | None:
        """Seconds of audio, None when the length is not known."""
        return None if self.n_samples is None else self.n_samples / self.original_sample_rate

    @property
    def frame_rate(self) -> Fraction | None:
        """Frames a second."""
        return Fraction(self.sample_rate, self.frame_size) if self.frame_size else None


@dataclass(frozen=True)
class Packet:
    """A run of consecutive frames.

    codes: (S, K, T) int64.   start: index of the first frame in the file.
    scale: (S,) float32, the loudness of the segment for models that normalise it, else None.
    lost: the bytes were damaged and these codes are concealment (see Concealer).
    gain: (T,) float32, to multiply the audio of each frame with (lost packets fade out), else None.
    """

    codes: Tensor
    start: int
    scale: Tensor | None = None
    lost: bool = False
    gain: Tensor | None = None


@dataclass(frozen=True)
class Damage:
    """A part of the file that could not be used: which packet (-1 when unknown), what happened, frames
    concealed.
    """

    packet: int
    reason: str
    frames: int = 0

    def __str__(self) -> str:
        where = f"packet {self.packet}" if self.packet >= 0 else "the file"
        return f"{where}: {self.reason}" + (f" ({self.frames} frames concealed)" if self.frames else "")


class CompressedFile(ABC):
    """A compressed file open for reading, from `open_compressed`.

    info: what the file states.   damage: grows while packets are read.   bytes_read: so far, headers
    included.
    """

    info: FileInfo
    damage: list[Damage]
    bytes_read: int

    @abstractmethod
    def packets(self, start: float = 0.0) -> Iterator[Packet]:
        """The packets in order, each as soon as its bytes have arrived; damaged ones concealed and reported.

        `start`: seconds; the first packet is the one that holds this time (its `start` says where it begins).
        Needs a seekable file when it is not 0 and packets were read before.

        Memory does not grow with the length of the file. Raises CorruptStreamError when nothing can be read.
        """

    def bitrate(self) -> float | None:
        """Bits a second of the bytes in the file; None until the length is known."""
        duration = self.info.duration
        size = self.size()
        return None if not duration or size is None else 8 * size / duration

    @abstractmethod
    def size(self) -> int | None:
        """Bytes of the whole file, None when it comes through a pipe that has not ended."""
