"""What TorToise reads: sentences it can say, spelled out, as its tokens."""
