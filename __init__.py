"""Myna: compress speech, clone a voice, transcribe; offline, streaming, on a CPU or a GPU."""

__version__ = "0.1.0"
