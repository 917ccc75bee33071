"""Codecs side by side with Opus."""
