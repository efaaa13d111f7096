"""Every tolerance of the suite, in one place, each with its reason."""

import numpy as np

# Two float32 computations of the same sums in another order. Sums of a few
# hundred terms round to about 1e-6 of the largest output; ten times that.
SAME_SUMS = 1e-5

# The same in float64: sums of some ten terms in another order round to 1e-16
# each. Anything that had gone through float32 would differ by 1e-7.
EXACT = 1e-13

# Float64 autodiff against central differences of step 1e-5: their truncation
# error is about 1e-10 relative, their rounding error about 1e-11 / 1e-5.
DIFFERENCES = 1e-6

# The same with a step of 2e-3 where Keras computes a part in float32 even
# under float64: a loss of some tens rounds by a few 1e-6, over the step that
# is 1e-3 of a slope; the step's own truncation is about as much. A wrong term
# is off by a hundred times that.
DIFFERENCES_THROUGH_FLOAT32 = 5e-3

# Outputs that went through one file on another backend: the same weights bit
# for bit, so this is SAME_SUMS over a few layers, with their own functions
# (exp, rsqrt) that differ in the last bit.
OTHER_BACKEND = 2e-5

# Gradients through two whole layers, compiled and not: the same, and every
# normalisation on the way back divides by a deviation that is rounded too.
THROUGH_LAYERS = 1e-4

# A Fourier transform of float32 against sums: every value is rounded by some
# 1e-7 of the largest, a few times for each halving.
FOURIER = 1e-5

# Half precision against float32: inputs, weights, gates and outputs are
# rounded to 11 bits (float16) or 8 (bfloat16), one part in 2,048 or 256 each.
# An output of a block sums some ten such errors, and a normalisation may
# double them; eight units of the last place of the largest output.
HALF = {"mixed_float16": 8 / 2048, "mixed_bfloat16": 8 / 256}


def assert_close(actual, expected, relative):
    """At most `relative` of the largest magnitude expected, everywhere."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(np.max(np.abs(expected)), 1e-3)
    error = np.max(np.abs(actual - expected)) / scale
    assert error <= relative, f"error {error:.2e} of the largest magnitude"
