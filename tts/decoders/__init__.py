"""Decoders: from the AR's codes and hidden states to sound, chosen by name."""
