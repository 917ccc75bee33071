"""Waveform to codes to bytes, and back."""

from .base import Codec, Codes

__all__ = ["Codec", "Codes"]
