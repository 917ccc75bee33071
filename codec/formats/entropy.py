"""Entropy coders of the `.myna` container: codes of one packet to one block of bytes a codebook, and back.

A packet is coded on its own, so losing one costs no other; the block of codebook k needs only the blocks
below it, so a lower bitrate is the first blocks as they are.

Shapes: S streams, K codebooks, T frames, V codebook size.
"""

from __future__ import annotations

from typing import Any, Protocol

import constriction
import numpy as np

from ...errors import CorruptStreamError
from .bits import pack_bits, packed_size, unpack_bits
from .context_model import ContextModel, PacketContext

PACKED, CONTEXT = 0, 1  # coder ids in the header
NAMES = {PACKED: "packed", CONTEXT: "context"}

_WORD = 4  # bytes of a word of constriction's range coder
_stream = constriction.stream  # pyright: ignore[reportAttributeAccessIssue] (no stubs)
_CATEGORICAL = _stream.model.Categorical(perfect=False)


class EntropyCoder(Protocol):
    """Turns the codes of a packet into blocks of bytes and back.

    coder_id: in the file's header.   model_hash: 16 hex digits that name its weights, "" without.
    """

    coder_id: int
    model_hash: str

    def encode(self, codes: np.ndarray) -> list[bytes]:
        """codes (S, K, T) integers to K blocks."""
        ...

    def decode(self, blocks: list[bytes], streams: int, frames: int) -> np.ndarray:
        """The first len(blocks) codebooks, (S, len(blocks), T) int64. Raises CorruptStreamError."""
        ...


class PackedCoder:
    """No modelling: each code takes ceil(log2 V) bits. Fits every codec."""

    coder_id = PACKED
    model_hash = ""

    def __init__(self, codebook_size: int):
        self.codebook_size = codebook_size
        self.width = max(1, (codebook_size - 1).bit_length())

    def encode(self, codes: np.ndarray) -> list[bytes]:
        return [pack_bits(codes[:, k].T, self.width) for k in range(codes.shape[1])]

    def decode(self, blocks: list[bytes], streams: int, frames: int) -> np.ndarray:
        codes = np.empty((streams, len(blocks), frames), dtype=np.int64)
        for k, block in enumerate(blocks):
            if len(block) != packed_size(streams * frames, self.width):
                raise CorruptStreamError(
                    f"a block of {len(block)} bytes where {streams * frames} codes of {self.width} bits fit"
                )
            codes[:, k] = unpack_bits(block, self.width, streams * frames).reshape(frames, streams).T
        if codes.size and codes.max() >= self.codebook_size:
            raise CorruptStreamError(f"a code beyond the codebook of {self.codebook_size} entries")
        return codes


class ContextCoder:
    """Range coding with the probabilities of an integer context model.

    The model gives positive integer weights a symbol, exact in float64 with a sum below 2^53. constriction
    turns them into 24-bit ranges with one division and one multiplication in IEEE double precision a symbol
    and a truncation, so equal weights give equal bytes on every machine (tests/codec/test_entropy.py holds
    it to a transcription in Python integers).
    """

    coder_id = CONTEXT

    def __init__(self, model: ContextModel):
        self.model = model
        self.model_hash = model.hash

    def encode(self, codes: np.ndarray) -> list[bytes]:
        blocks = []
        for k, weights in enumerate(self.model.weights_of(codes)):
            encoder = _stream.queue.RangeEncoder()
            symbols = np.ascontiguousarray(codes[:, k].T, dtype=np.int32).reshape(-1)
            if len(symbols):
                encoder.encode(symbols, _CATEGORICAL, weights)
            blocks.append(_shortest(encoder))
        return blocks

    def decode(self, blocks: list[bytes], streams: int, frames: int) -> np.ndarray:
        n_codebooks = len(blocks)
        if n_codebooks > self.model.config.n_codebooks:
            raise CorruptStreamError(
                f"{n_codebooks} codebooks where the entropy model knows {self.model.config.n_codebooks}"
            )
        decoders = [_stream.queue.RangeDecoder(_words(block)) for block in blocks]
        context = PacketContext(self.model, streams)
        codes = np.empty((streams, n_codebooks, frames), dtype=np.int64)
        try:
            for t in range(frames):
                for k, decoder in enumerate(decoders):
                    symbols = decoder.decode(_CATEGORICAL, context.weights(k))
                    codes[:, k, t] = symbols
                    context.put(k, symbols)
                context.next_frame()
        except AssertionError as error:  # how constriction says that no symbol has this range
            raise CorruptStreamError("the entropy-coded bytes do not fit the entropy model") from error
        return codes


def _words(block: bytes) -> np.ndarray:
    """Big-endian words, zero-padded: the decoder also reads zeros past its end."""
    return np.frombuffer(block + bytes(-len(block) % _WORD), dtype=">u4").astype(np.uint32)


def _shortest(encoder: Any) -> bytes:
    """The fewest bytes that decode to what `encoder` holds.

    constriction ends on whole 32-bit words; any number inside its last interval [low, low + range) will do,
    and the one with the most trailing zero bytes needs the least space, since missing bytes read as zeros.
    """
    if encoder.is_empty():
        return b""
    data = encoder.get_compressed().astype(">u4").tobytes()
    position, (low, width) = encoder.pos()  # words behind the 64-bit state, and the state
    n_bytes = _WORD * (position + 2)
    value = int.from_bytes(data.ljust(n_bytes, b"\0"), "big")
    low = value - (value - low) % (1 << 64)  # the interval's whole lower end, less than 2^64 below `value`
    for n in range(n_bytes + 1):
        shift = 8 * (n_bytes - n)
        candidate = -(-low >> shift) << shift
        if candidate < low + width:
            return (candidate >> shift).to_bytes(n, "big")
    raise AssertionError("the interval holds its own lower end")
