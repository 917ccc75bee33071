"""Whisper: waveform to text with times."""
