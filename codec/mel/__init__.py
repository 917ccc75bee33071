"""Codecs of mel spectrograms: speech tokens, and `myna-mel` on top of them."""
