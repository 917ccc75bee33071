"""Text to phones: normalisation, sentences, phonemes."""
