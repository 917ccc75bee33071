"""Codes that are cheap in the file as well as near: the search, told what the entropy coder will charge.

    latents --> [ a packet of them ] --> search by distance --> codes --> context model --> prices
                        |                                                                     |
                        +---------------------> search by distance and price <----------------+
                                                          |
                                                        codes

Rate-distortion optimised quantisation, as video encoders choose their coefficients; entropy-constrained vector
quantisation (Chou et al. 1989) with the probabilities of a context model. The context is empty at the start of a
packet, so whole packets are searched. Any decoder reads the codes.

Shapes: S streams, D latents, T frames, K codebooks.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .formats.context_model import ContextModel
from .formats.context_price import ContextPrice
from .quantizer import ResidualVQ

# What a bit may cost, as a share of the size (squared) of the rows of the last codebook in use; chosen by PESQ at
# equal bitrate (docs/log.md).
BIT = 0.05
PATHS = 8  # of the second search


class PacketSearch:
    """Latents in, codes out, a packet at a time.

    model: of the coder that writes the file.   packet_frames: as its header has them.   bit: see BIT.
    """

    def __init__(
        self,
        quantizer: ResidualVQ,
        model: ContextModel,
        n_codebooks: int,
        packet_frames: int,
        bit: float = BIT,
    ):
        self.quantizer, self.model = quantizer, model
        self.n_codebooks, self.packet_frames, self.bit = n_codebooks, packet_frames, bit
        self._waiting: Tensor | None = None  # (S, D, t)

    def push(self, latents: Tensor) -> Tensor:
        """latents (S, D, t), any t -> the codes (S, K, t') of the packets that are full."""
        waiting = latents if self._waiting is None else torch.cat([self._waiting, latents], dim=-1)
        full = waiting.shape[-1] // self.packet_frames * self.packet_frames
        self._waiting = waiting[..., full:]
        return self._packets(waiting[..., :full])

    def flush(self) -> Tensor:
        """The codes of the last packet, (S, K, t). Something was pushed before, be it empty."""
        assert self._waiting is not None
        waiting, self._waiting = self._waiting, self._waiting[..., :0]
        return self._packets(waiting)

    def fork(self) -> PacketSearch:
        """An independent copy that continues from here."""
        return copy.copy(self)

    def _packets(self, latents: Tensor) -> Tensor:
        packets = latents.split(self.packet_frames, dim=-1)
        return torch.cat([self._codes(packet) for packet in packets], dim=-1)

    def _codes(self, latents: Tensor) -> Tensor:
        """One packet."""
        if not latents.shape[-1]:
            shape = len(latents), self.n_codebooks, 0
            return torch.zeros(shape, dtype=torch.long, device=latents.device)
        codes = self.quantizer.encode(latents, self.n_codebooks, search=True)
        price = ContextPrice(self.model, codes, self.bit * self.quantizer.row_size(self.n_codebooks - 1))
        return self.quantizer.search(latents, self.n_codebooks, price, PATHS)
