"""What computes: speech and transcription, for many requests at once."""
