"""What a microcontroller runs today instead: GRU layers, and keras-tcn.

Each family makes the layers that stand where the two mGRADE blocks of a task
do; front end, head and training are the task's.
"""

import importlib

import keras
import numpy as np
from keras import layers

# Of the recurrent layers' outputs, or of the TCN's channels, as in the mGRADE
# model of the task.
DROPOUT = {"activity": 0.1, "keywords": 0.2}

# Two kernels of three taps a block: a reach of 1 + 4 * sum, 125 and 61 steps.
# The two delay lines of the mGRADE models reach 128 and 64, and the windows of
# the tasks have 128 and 100.
DILATIONS = {"activity": (1, 2, 4, 8, 16), "keywords": (1, 2, 4, 8)}


def gru(task, width):
    """Two layers; Keras's GRU has no normalisation of its own."""
    return [
        layer
        for number in (1, 2)
        for layer in (
            layers.GRU(width, return_sequences=True, name=f"gru_{number}"),
            layers.Dropout(DROPOUT[task], name=f"drop_{number}"),
        )
    ]


def tcn(task, width):
    """Keras-tcn as it comes, but for the reach, and normalised as mGRADE."""
    from tcn import TCN

    return [
        TCN(
            width,
            dilations=DILATIONS[task],
            dropout_rate=DROPOUT[task],
            use_batch_norm=True,
            return_sequences=True,
            name="tcn",
        )
    ]


PEERS = {"GRU": gru, "TCN": tcn}


def load(path):
    """A trained model of any family."""
    # What keras-tcn registers, a model may be made of.
    importlib.import_module("tcn")
    return keras.saving.load_model(path, compile=False)


def streamable(model, x):
    """The model of layers that have steps, with the same output for `x`."""
    from tcn import TCN

    plain = replaced(model, TCN, plain_tcn)
    wanted, found = (keras.ops.convert_to_numpy(m(x)) for m in (model, plain))
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
    return plain


def replaced(model, kind, call, **inputs):
    """A functional model in which `call` stands for the layers of a kind.

    The other layers are the same ones, with the same weights.
    """
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0])

    def called(layer, *arguments, **keywords):
        if isinstance(layer, kind):
            return call(layer, *arguments)
        return layer(*arguments, **keywords)

    return keras.models.clone_model(
        model,
        clone_function=lambda layer: layer,
        call_function=called,
        **inputs,
    )


def plain_tcn(layer, x):
    """A trained TCN of keras-tcn from Keras's own layers, which have steps."""
    skips = []
    for block in layer.residual_blocks:
        name = f"{layer.name}_{len(skips)}"
        y = x
        for number, inner in enumerate(block.layers):
            y = same(inner, f"{name}_{number}", y)
        if isinstance(block.shape_match_conv, layers.Conv1D):
            x = same(block.shape_match_conv, f"{name}_match", x)
        x = layers.Add(name=f"{name}_add")([x, y])
        x = same(block.final_activation, f"{name}_out", x)
        skips.append(y)
    return layers.Add(name=f"{layer.name}_skips")(skips)


def same(layer, name, x, **changes):
    """`layer(x)`, by another layer of the same weights."""
    config = {**layer.get_config(), "name": name, **changes}
    made = type(layer).from_config(config)
    y = made(x)
    made.set_weights(layer.get_weights())
    return y
