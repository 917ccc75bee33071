"""The layers of the models, all of them streaming (`layers.streaming` has the contract)."""

from .activations import Snake
from .conv import Conv1d, ConvTranspose1d
from .streaming import Chain, Residual, Stream, Streamable

__all__ = ["Chain", "Conv1d", "ConvTranspose1d", "Residual", "Snake", "Stream", "Streamable"]
