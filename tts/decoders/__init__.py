"""Decoders: from what the AR says to sound, chosen by name."""
