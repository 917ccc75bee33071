"""For NVIDIA GPUs, in Triton: an operation a file, PyTorch's beside it, `supports`, and a custom operator."""
