"""PyTorch kernels: few large operations, with own gradients."""
