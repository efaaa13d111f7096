"""TensorFlow kernels: for graphs and XLA alike, with own gradients."""
