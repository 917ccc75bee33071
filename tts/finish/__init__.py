"""Finishing stages of every sentence: level, pauses, tempo."""
