"""Whisper itself: the network, its input, its tokens, its checkpoints."""
