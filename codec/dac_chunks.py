"""DAC without padding, as its own `.dac` files are coded by default: chunks that stand alone.

The original program takes the padding out of every convolution, codes windows that overlap by what this
costs, and puts the decoded chunks in a row. A chunk then decodes to fewer samples than frames x frame_size,
and needs nothing of its neighbours.

Shapes: B batch, D channels, T frames or samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CorruptStreamError, UsageError
from ..layers import Chain, Conv1d, ConvTranspose1d, Residual
from ..layers.steady import SteadyStep
from .base import Codec
from .dac import DAC


class DacChunkStream:
    """Codes in, a chunk at each push, waveform out (`codec.base.DecoderStream`).

    Raises UsageError for a codec that is not a DAC; `push` raises CorruptStreamError for too short a chunk.
    """

    def __init__(self, codec: Codec, batch: int):
        if not isinstance(codec, DAC):
            raise UsageError(f"{codec.name} is not a DAC; a .dac file needs the model that made it (--model)")
        self.codec, self.batch = codec, batch
        self._steps = SteadyStep(codec.decoder, _unpadded, "unpadded")

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """One whole chunk (B, K, T) to wav (B, 1, n)."""
        if not codes.shape[-1]:
            return self.flush()
        return self._steps((self.codec.quantizer.decode(codes),), None)[0]

    def flush(self) -> Tensor:
        """Nothing is owed between chunks."""
        return next(self.codec.parameters()).new_zeros(self.batch, 1, 0)


def _unpadded(decoder: nn.Module, inputs: tuple[Tensor], state: None) -> tuple[Tensor, None]:
    return unpadded(decoder, inputs[0]), state


def unpadded(layer: nn.Module, x: Tensor) -> Tensor:
    """A decoder of DAC on x (B, D, T) with no padding anywhere; skips are cut to the middle.

    Raises CorruptStreamError if x is too short to give any sample so.
    """
    if isinstance(layer, Chain):
        for inner in layer.layers:
            x = unpadded(inner, x)
        return x
    if isinstance(layer, Residual):
        y = unpadded(layer.body, x)
        cut = (x.shape[-1] - y.shape[-1]) // 2
        return y + x[..., cut : x.shape[-1] - cut]
    if isinstance(layer, Conv1d):
        if x.shape[-1] <= (layer.weight.shape[-1] - 1) * layer.dilation:
            raise CorruptStreamError(
                "the .dac file's chunks are too short to decode: it is damaged; get it again, "
                "or give the --model that wrote it"
            )
        return F.conv1d(x, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)
    if isinstance(layer, ConvTranspose1d):
        return F.conv_transpose1d(x, layer.weight, layer.bias, layer.stride)
    return layer(x)
