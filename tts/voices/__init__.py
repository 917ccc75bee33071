"""Cloned voices: made from a recording, kept in files and in a library."""
