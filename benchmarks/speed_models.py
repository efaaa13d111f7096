"""Training steps of small models, and steps of a stream, beside others."""

import inspect
import time

import keras
import numpy as np
from keras import layers, ops

import keras_mgrade
import timing
from keras_mgrade.callbacks import RegrowDelays
from keras_mgrade.models import paper_mgrade
from keras_mgrade.regrowth import Regrowth

BATCH, CHANNELS, UNITS = 32, 64, 64


def mean_square(_, y):
    return ops.mean(ops.square(y), axis=tuple(range(1, len(y.shape))))


def training_step(model, inputs, compiled, loss=mean_square):
    """A runner of `train_on_batch`, which waits for the loss by itself."""
    model.compile("sgd", loss=loss, jit_compile=compiled)
    x = np.random.default_rng(0).normal(size=inputs).astype("float32")
    y = np.zeros((inputs[0],), "int32")
    return lambda: model.train_on_batch(x, y)


def layer_step(make, length, compiled):
    model = keras.Sequential([keras.Input((length, CHANNELS)), make()])
    return training_step(model, (BATCH, length, CHANNELS), compiled)


def layer_makers():
    """From a name to what makes a layer of 64 channels."""
    makers = {
        "Dense(128)": lambda: layers.Dense(2 * UNITS),
        "MinGRU": lambda: keras_mgrade.MinGRU(UNITS, return_sequences=True),
        "DelayConv1D": lambda: keras_mgrade.DelayConv1D(8, 127, "integer"),
        "MGrade": lambda: keras_mgrade.MGrade(UNITS, 8, 127, "integer"),
        "GRU": lambda: layers.GRU(UNITS, return_sequences=True),
        "LSTM": lambda: layers.LSTM(UNITS, return_sequences=True),
        "Conv1D, 8 taps dilated by 16": lambda: layers.Conv1D(
            UNITS, 8, dilation_rate=16, padding="causal"
        ),
        "mingru-keras": mingru_keras,
    }
    if keras.backend.backend() == "tensorflow":
        makers["keras-tcn"] = keras_tcn
    return makers


def mingru_keras():
    from mingru_keras import MinGRU

    return MinGRU(UNITS)


def keras_tcn():
    from tcn import TCN

    return TCN(UNITS, return_sequences=True)


def training(rounds, length):
    """Rows of one training step of each layer."""
    runners = {
        (mode, name): lazily(layer_step, make, length, compiled)
        for mode, compiled in timing.modes().items()
        for name, make in layer_makers().items()
    }
    if keras.backend.backend() == "torch":
        for name, layer in torch_layers().items():
            runners["torch", name] = torch_step(layer, length)
    part = f"training, {length} steps"
    return [
        {"part": part, "mode": mode, "name": name, **result}
        for (mode, name), result in timing.race(runners, rounds).items()
    ]


def lazily(make, *arguments):
    """A runner that is made when first run, so that its errors are caught."""
    made = []

    def run():
        if not made:
            made.append(make(*arguments))
        return made[0]()

    return run


def torch_layers():
    """PyTorch's own recurrent layers, and what trains as one of them."""
    import torch

    ours = keras_mgrade.MinGRU(UNITS, return_sequences=True)
    ours.build((BATCH, None, CHANNELS))
    return {
        "torch.nn.GRU": torch.nn.GRU(CHANNELS, UNITS, batch_first=True),
        "torch.nn.LSTM": torch.nn.LSTM(CHANNELS, UNITS, batch_first=True),
        "MinGRU, PyTorch's own loop": ours,
    }


def torch_step(layer, length):
    """A training step as PyTorch's users write it, without Keras's loop."""
    import torch

    optimizer = torch.optim.SGD(layer.parameters(), 0.01)
    x = np.random.default_rng(0).normal(size=(BATCH, length, CHANNELS))
    x = torch.from_numpy(x.astype("float32"))

    def run():
        optimizer.zero_grad()
        y = layer(x)
        if isinstance(y, tuple):
            y, _ = y
        loss = torch.mean(torch.square(y))
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


PAPER = {"units": 32, "depth": 6, "kernel_size": 8, "max_delay": 64}
PAPER_INPUT = (32, 784, 1)


def paper_model():
    return paper_mgrade(1, 10, interpolation="integer", **PAPER)


def matrix_products():
    """The same model with nothing but its Dense layers and products."""
    x = inputs = keras.Input(PAPER_INPUT[1:])
    x = layers.Dense(32)(x)
    for _ in range(PAPER["depth"]):
        # A minGRU's gate and candidate; an MLP's way up and down.
        x = ops.add(layers.Dense(64)(x), layers.Dense(64)(x))
        x = layers.Dense(32)(x)
    x = layers.Dense(10)(x)
    return keras.Model(inputs, ops.mean(x, axis=1))


def gru_model():
    return keras.Sequential(
        [
            keras.Input(PAPER_INPUT[1:]),
            layers.GRU(32, return_sequences=True),
            layers.GRU(32),
            layers.Dense(10),
        ]
    )


PAPER_MODELS = {
    "paper's model": paper_model,
    "its matrix products alone": matrix_products,
}


def classification():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def paper(rounds):
    runners = {
        (mode, name): training_step(
            make(), PAPER_INPUT, compiled, classification()
        )
        for mode, compiled in timing.modes().items()
        for name, make in PAPER_MODELS.items()
    }
    return [
        {"part": "paper's model", "mode": mode, "name": name, **result}
        for (mode, name), result in timing.race(runners, rounds).items()
    ]


# A training of this many steps, some minutes; longer ones probe no more often.
TRAINING_STEPS = 1000


def regrowth(rounds):
    """The share that `RegrowDelays` takes of a training.

    Computed from what was timed: a step, a probe and its moves, the first of
    which compiles.
    """
    random = np.random.default_rng(0)
    x = random.normal(size=PAPER_INPUT).astype("float32")
    y = random.integers(0, 10, len(x))
    defaults = inspect.signature(RegrowDelays).parameters
    batches = [(x, y)] * defaults["probe_batches"].default
    probes = round(defaults["moves"].default * PAPER["kernel_size"])
    rows = []
    for mode, compiled in timing.modes().items():
        model = paper_model()
        step = training_step(model, PAPER_INPUT, compiled, classification())
        step()
        regrown = Regrowth(model, optimizer=model.optimizer)
        start = time.perf_counter()
        regrown.move(batches)
        first = 1e3 * (time.perf_counter() - start)
        timed = timing.race(
            {"step": step, "probe": lambda r=regrown: r.move(batches)}, rounds
        )
        every = [timed[name]["ms"] for name in ("step", "probe")]
        taken = first + (probes - 1) * every[1]
        rows.append(
            {
                "part": "regrowth",
                "mode": mode,
                "name": f"{probes} probes in {TRAINING_STEPS:,} steps",
                "share": taken / (taken + TRAINING_STEPS * every[0]),
                "first_probe_ms": first,
                "probe_ms": every[1],
                "step_ms": every[0],
            }
        )
    return rows


def streaming(rounds):
    """One sample through a stream, beside a stateful GRU of the same width."""
    sample = np.zeros((1, CHANNELS), "float32")
    sample = ops.convert_to_tensor(sample)
    runners = {
        "MinGRU": our_stream(keras_mgrade.MinGRU(UNITS), sample),
        "MGrade": our_stream(
            keras_mgrade.MGrade(UNITS, 8, 127, "integer"), sample
        ),
        "stateful GRU": stateful_gru(sample[:, None]),
    }
    mode = {"tensorflow": "tensorflow graph"}.get(
        keras.backend.backend(), keras.backend.backend()
    )
    return [
        {"part": "one step of a stream", "mode": mode, "name": name, **result}
        for name, result in timing.race(runners, rounds).items()
    ]


def our_stream(layer, sample):
    model = keras.Sequential([keras.Input((None, CHANNELS)), layer])
    stream = keras_mgrade.streaming_model(model, batch_size=1)
    step = keras_mgrade.compile_step(stream)
    kept = [keras_mgrade.initial_states(stream)]

    def run():
        y, kept[0] = step(sample, kept[0])
        return y

    return run


def stateful_gru(sample):
    """Keras's way to stream a GRU, compiled as the backend compiles."""
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(1, 1, CHANNELS)),
            layers.GRU(UNITS, stateful=True),
        ]
    )
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        call = tf.function(model)
        return lambda: call(sample)
    if backend == "torch":
        import torch

        return torch.no_grad()(lambda: model(sample))
    import jax

    @jax.jit
    def call(trainable, others, x):
        return model.stateless_call(trainable, others, x)

    trainable = [v.value for v in model.trainable_variables]
    kept = [[v.value for v in model.non_trainable_variables]]

    def run():
        y, kept[0] = call(trainable, kept[0], sample)
        return y

    return run
