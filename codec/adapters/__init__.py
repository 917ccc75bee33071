"""Published checkpoints in their own formats, renamed to ours: one module a family."""

from .dac import adapt_dac
from .encodec import adapt_encodec, adapt_encodec_lm

__all__ = ["adapt_dac", "adapt_encodec", "adapt_encodec_lm"]
