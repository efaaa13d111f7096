"""The picture of `speed.py`: training steps over their lengths."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BACKENDS = ("jax", "tensorflow", "torch")
SHOWN = {
    "MinGRU": "C0",
    "MGrade": "C2",
    "GRU": "C1",
    "LSTM": "C3",
    "mingru-keras": "C4",
    "keras-tcn": "C5",
    "torch.nn.GRU": "C6",
}


def draw(rows, path):
    """Writes the picture; on TensorFlow the faster of graph and compiled."""
    figure, axes = plt.subplots(
        1, 4, figsize=(15, 4), sharey=True, layout="constrained"
    )
    for axis, backend in zip(axes, BACKENDS, strict=False):
        for name, colour in SHOWN.items():
            best = {}
            for row in rows:
                if (
                    row["part"].startswith("training")
                    and row["mode"].split()[0] == backend
                    and row["name"] == name
                    and "ms" in row
                ):
                    steps = int(row["part"].split()[1])
                    best[steps] = min(best.get(steps, row["ms"]), row["ms"])
            if best:
                steps = sorted(best)
                axis.plot(
                    steps, [best[s] for s in steps], "o-", c=colour, label=name
                )
        axis.set_title(f"{backend}: 64 channels, batch 32")
    axes[0].set_ylabel("one training step, ms")
    for backend in BACKENDS:
        grown = [
            row
            for row in rows
            if row["part"] == "growth" and row["mode"] == backend
        ]
        if grown:
            steps = [row["steps"] for row in grown]
            times = [row["ms"] for row in grown]
            axes[3].plot(steps, times, "o-", label=backend)
    axes[3].set_title("MGrade of 32 channels, batch 1")
    for axis in axes:
        if axis.has_data():
            axis.legend(fontsize=8)
        axis.set_xscale("log", base=2)
        axis.set(yscale="log", xlabel="steps")
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
