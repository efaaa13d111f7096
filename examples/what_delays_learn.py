"""What do learned delays learn, and do taps have to start near them?

First delays that are known: each of eight channels answers to noise through
four delays of up to 64 steps, and four taps have to find them, by gradient
and with regrowth. Then delays that nobody knows: those of the activity
recogniser, both ways. The picture shows where the taps start and end up.

    python examples/what_delays_learn.py          # three minutes, two cores
    python examples/what_delays_learn.py --fast   # under a minute
"""

import argparse
import dataclasses
import os
import pathlib

OUTPUT = pathlib.Path(__file__).resolve().parent / "out" / "what_delays_learn"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--backend",
    choices=["jax", "tensorflow", "torch"],
    default=os.environ.get("KERAS_BACKEND", "jax"),
    help="what Keras trains with (default: %(default)s)",
)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--fast", action="store_true", help="a small part of everything"
)
parser.add_argument(
    "--output",
    type=pathlib.Path,
    default=OUTPUT,
    help="folder of the picture (default: %(default)s)",
)
ARGUMENTS = parser.parse_args()
# Before Keras is imported: one backend a process.
os.environ["KERAS_BACKEND"] = ARGUMENTS.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402

import activity  # noqa: E402
import hapt  # noqa: E402
import keras_mgrade  # noqa: E402

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

CHANNELS, PLANTED, SPAN = 8, 4, 64
# The way of learning -> the taps, and whether they jump.
WAYS = {
    "by gradient": ("linear", False),
    "with regrowth": ("integer", True),
}


def main(options):
    options.output.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(
        2, 3, figsize=(14, 8), sharey="row", layout="constrained"
    )
    find_planted_delays(options, axes[0])
    learn_unknown_delays(options, axes[1])
    path = options.output / "what_delays_learn.png"
    figure.savefig(path, dpi=120)
    print(f"\npicture: {path}")


def find_planted_delays(options, axes):
    rng = np.random.default_rng(options.seed)
    delays = np.stack(
        [rng.choice(SPAN + 1, PLANTED, False) for _ in range(CHANNELS)], axis=1
    )
    signs = rng.choice([-1, 1], delays.shape)
    weights = signs * rng.uniform(0.4, 1, delays.shape)

    def respond(x):
        y = np.zeros_like(x)
        for c in range(CHANNELS):
            for n, weight in zip(delays[:, c], weights[:, c], strict=True):
                y[:, n:, c] += weight * x[:, : x.shape[1] - n, c]
        return y

    x, fresh = rng.normal(size=(2, 48, 192, CHANNELS)).astype("float32")
    y, wanted = respond(x), respond(fresh)
    print(f"{'planted delays':24}found of {delays.size}   power left")
    for axis, (way, (interpolation, regrow)) in zip(
        axes[1:], WAYS.items(), strict=True
    ):
        keras.utils.set_random_seed(options.seed)
        layer = keras_mgrade.DelayConv1D(
            PLANTED, SPAN, interpolation, use_bias=False
        )
        model = keras.Sequential([keras.Input(x.shape[1:]), layer])
        model.compile(keras.optimizers.Adam(1e-2), "mse")
        # Both start alike; the last one drawn stays.
        draw_planted(axes[0], layer, delays, "at the start")
        callbacks = []
        if regrow:
            callbacks.append(
                keras_mgrade.callbacks.RegrowDelays(
                    (x, y), batch_size=16, verbose=0
                )
            )
        model.fit(
            x, y, batch_size=16, epochs=200, verbose=0, callbacks=callbacks
        )
        left = np.mean((model.predict(fresh, verbose=0) - wanted) ** 2)
        kernel = keras.ops.convert_to_numpy(layer.dense_kernel())
        # Found is a planted delay that has most of its weight.
        found = np.take_along_axis(kernel, delays, axis=0) / weights > 0.5
        print(
            f"  {way:22}{found.sum():>8}{left / np.mean(wanted**2):>18.2%}",
            flush=True,
        )
        draw_planted(axis, layer, delays, way)


def draw_planted(axis, layer, delays, title):
    axis.clear()
    channels = np.broadcast_to(np.arange(CHANNELS), delays.shape)
    axis.scatter(
        delays,
        channels,
        s=160,
        marker="s",
        facecolors="none",
        edgecolors="0.5",
        label="planted",
    )
    keras_mgrade.plotting.delays(layer, axes=axis)
    axis.set(title=f"Planted delays, {title}", ylim=(-0.6, CHANNELS + 0.6))
    axis.legend(loc="upper right")


def learn_unknown_delays(options, axes):
    train, test = hapt.load("train"), hapt.load("test")
    steps, batch_size = (60, 16) if options.fast else (1500, 32)
    print(f"\n{'activity':24}windows right   delay line in use")
    start = activity.make_model(activity.Settings())
    keras_mgrade.plotting.delays(start.layers[1], axes=axes[0])
    axes[0].set_title("Activity, second block, at the start")
    for axis, (way, (interpolation, regrow)) in zip(
        axes[1:], WAYS.items(), strict=True
    ):
        settings = dataclasses.replace(
            activity.Settings(),
            steps=steps,
            batch_size=batch_size,
            interpolation=interpolation,
            regrow=regrow,
            delay_price=0.0,
        )
        model = activity.train(train, settings, options.seed, verbose=0)
        accuracy = activity.window_accuracy(model, test, settings)
        blocks = [b for b in model.layers if hasattr(b, "convolution")]
        in_use = sum(int(b.convolution.longest_delays().sum()) for b in blocks)
        print(f"  {way:22}{accuracy:>13.2%}{in_use:>13} values", flush=True)
        keras_mgrade.plotting.delays(blocks[1], axes=axis)
        axis.set_title(f"Activity, second block, {way}")


if __name__ == "__main__":
    main(ARGUMENTS)
