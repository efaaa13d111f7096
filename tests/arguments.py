"""Every constructor argument, at another value than its default."""

import inspect

import keras

from keras_mgrade import (
    DelayConv1D,
    MGrade,
    MinGRU,
    MinGRUCell,
    TemporalPooling,
    initializers,
)

L2 = keras.regularizers.L2
ARGUMENTS = {
    MinGRUCell: dict(
        units=4,
        activation="tanh",
        recurrent_activation="hard_sigmoid",
        use_bias=False,
        kernel_initializer="ones",
        bias_initializer="ones",
        gate_bias_initializer=initializers.LogTimeConstants(1, 50),
        kernel_regularizer=L2(0.1),
        bias_regularizer=L2(0.2),
        kernel_constraint="non_neg",
        bias_constraint="non_neg",
        dropout=0.25,
        seed=3,
    ),
    DelayConv1D: dict(
        kernel_size=2,
        max_delay=5,
        interpolation="gaussian",
        activation="relu",
        use_bias=False,
        depthwise_initializer="ones",
        bias_initializer="ones",
        delay_initializer=keras.initializers.RandomUniform(0, 5, seed=1),
        depthwise_regularizer=L2(0.1),
        bias_regularizer=L2(0.2),
        delay_regularizer=L2(0.3),
        activity_regularizer=L2(0.4),
        depthwise_constraint="non_neg",
        bias_constraint="non_neg",
        width=1.5,
        train_width=True,
        normalize_kernel=True,
        return_state=True,
        stateful=True,
    ),
    MGrade: dict(
        units=4,
        kernel_size=2,
        max_delay=5,
        interpolation="gaussian",
        expansion=3,
        activation="gelu",
        normalization="batch",
        candidate_activation="tanh",
        recurrent_activation="hard_sigmoid",
        output_activation="silu",
        convolution_on_input=True,
        convolution_norm=True,
        recurrence_norm=True,
        recurrence_dense=True,
        dropout=0.25,
        kernel_initializer="he_normal",
        depthwise_initializer="ones",
        delay_initializer=keras.initializers.RandomUniform(0, 5, seed=1),
        gate_bias_initializer=initializers.LogTimeConstants(1, 50),
        delay_regularizer=L2(0.3),
        width=1.5,
        train_width=True,
        normalize_kernel=True,
        seed=3,
        return_state=True,
        stateful=True,
    ),
    TemporalPooling: dict(mode="exponential", time_constant=7.0),
    initializers.UniformGate: dict(seed=3),
    initializers.LogTimeConstants: dict(shortest=1.0, longest=50.0),
    initializers.EvenDelays: dict(max_delay=5),
    initializers.UniformDelays: dict(max_delay=5, seed=3),
}
ARGUMENTS[MinGRU] = dict(
    ARGUMENTS[MinGRUCell],
    activity_regularizer=L2(0.4),
    return_sequences=True,
    return_state=True,
    go_backwards=True,
    stateful=True,
    zero_output_for_mask=True,
)


def parameters(function):
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
