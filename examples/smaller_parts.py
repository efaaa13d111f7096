"""What `smaller.py` takes from tensorflow-model-optimization."""


def half_way_to(share, steps):
    """A schedule: up to this share of zeros in the first half of `steps`."""
    from tensorflow_model_optimization.sparsity import keras as sparsity

    # A step is due where `frequency` divides it, the last one too.
    frequency = max(1, steps // 40)
    return sparsity.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=share,
        begin_step=0,
        end_step=20 * frequency,
        frequency=frequency,
    )


def one_range_a_matrix():
    """Sixteen values stay sixteen; with a range a channel they do not."""
    from tensorflow_model_optimization.quantization import keras as tfmot

    return tfmot.quantizers.LastValueQuantizer(
        num_bits=8, per_axis=False, symmetric=True, narrow_range=True
    )
