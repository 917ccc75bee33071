"""One operation a file: the PyTorch reference and, beside it, the faster version."""
