"""JAX kernels: compiled loops with hand-written gradients."""
