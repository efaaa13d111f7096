"""The quickstart's picture: answers against labels, and the delays."""

import matplotlib
import numpy as np

import hapt
import keras_mgrade

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

COLOURS = plt.get_cmap("tab10")


def draw(path, model, recording, runs):
    """Saves the picture of one streamed recording.

    Args:
        path: Where to save it.
        model: The model whose blocks have delays.
        recording: What was streamed.
        runs: `{name: logits}`, the last of which is the smallest device.
    """
    blocks = [layer for layer in model.layers if hasattr(layer, "convolution")]
    figure = plt.figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(2, len(blocks), height_ratios=(3, 2))
    axis = figure.add_subplot(grid[0, :])
    _draw_answers(axis, recording, runs)
    for column, block in enumerate(blocks):
        axis = figure.add_subplot(grid[1, column])
        keras_mgrade.plotting.delays(block, axes=axis)
        axis.set_title(f"{block.name}: taps, area by weight")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_answers(axis, recording, runs):
    seconds = np.arange(len(recording.labels)) / hapt.SAMPLE_RATE
    labels = np.where(recording.labels < 0, np.nan, recording.labels)
    axis.plot(
        seconds,
        labels,
        color="0.75",
        lw=9,
        solid_capstyle="butt",
        label="label",
    )
    names = list(runs)
    for name, colour in ((names[1], COLOURS(0)), (names[-1], COLOURS(3))):
        axis.plot(
            seconds,
            runs[name].argmax(axis=-1) + (0.12 if name == names[-1] else -0.12),
            ".",
            color=colour,
            markersize=2,
            label=name,
        )
    axis.set_yticks(range(len(hapt.CLASS_NAMES)), hapt.CLASS_NAMES)
    axis.set_xlabel("time (s)")
    axis.set_title(
        f"Subject {recording.subject}, one sample at a time, never reset",
        loc="left",
    )
    axis.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=3, markerscale=4
    )
