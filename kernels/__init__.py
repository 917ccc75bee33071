"""One operation a file: the PyTorch reference and, beside it, the faster version. Here for CPUs, in `gpu` for GPUs."""
