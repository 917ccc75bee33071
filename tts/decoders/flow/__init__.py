"""The flow decoder: timed phones, speech tokens and a prompt to a mel spectrogram."""
