"""How small does a trained model get, and what does each step of it cost?

Trains an activity recogniser, then takes away half of its channels and taps,
eight of ten weights that are left, and all values but sixteen a matrix, and
trains what remains as the device will compute it: in eight bits, with ranges
that need no calibration. After each step the file is made, its bytes counted,
and people that the model never saw streamed through it.

    python examples/smaller.py          # some twelve minutes, two cores
    python examples/smaller.py --fast   # under two
"""

import argparse
import dataclasses
import gzip
import os
import pathlib

OUTPUT = pathlib.Path(__file__).resolve().parent / "out" / "smaller"

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
    help="folder of the files and the picture (default: %(default)s)",
)
ARGUMENTS = parser.parse_args()
# Before Keras is imported: one backend a process.
os.environ["KERAS_BACKEND"] = ARGUMENTS.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

import activity  # noqa: E402
import hapt  # noqa: E402
import keras_mgrade  # noqa: E402
from keras_mgrade import compression  # noqa: E402
from smaller_parts import half_way_to, one_range_a_matrix  # noqa: E402

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

STRUCTURED, SPARSITY, CLUSTERS = 0.5, 0.8, 16
# The program keeps delay lines in rings: each channel's ends at its own delay.
DELAY_LINE = "application"


def main(options):
    options.output.mkdir(parents=True, exist_ok=True)
    task = Task(options)
    rows, matrices = [], {}

    def note(name, model, *precisions):
        rows.extend(task.measure(name, model, *precisions))
        if not is_quantised(model):
            kernel = model.get_layer("block_2").recurrence.cell.kernel
            matrices[name] = keras.ops.convert_to_numpy(kernel)

    print("\n1. A model, trained as usual")
    keras.utils.set_random_seed(options.seed)
    # Layer normalisation would look at all channels: none could leave.
    model = activity.make_model(task.settings, normalization="batch")
    task.train(model)
    note("as trained", model, "float32", "mixed")

    print("\n2. Half of its channels and taps leave; the rest is rebuilt")
    schedule = half_way_to(STRUCTURED, task.settings.steps)
    task.train(
        model,
        compression.Pruning(schedule, layers=[model], structure="units"),
        compression.Pruning(schedule, layers=[model], structure="taps"),
    )
    model = compression.shrink(model)
    print(f"   {model.count_params():,} parameters are left")
    note("half the channels", model)

    print("\n3. Eight of ten weights become zero")
    schedule = half_way_to(SPARSITY, task.settings.steps)
    task.train(model, compression.Pruning(schedule))
    note("80 % zeros", model)

    print("\n4. Sixteen values a matrix, zero among them")
    few = compression.Clustering(CLUSTERS, preserve_sparsity=True)
    task.train(model, compression.Pruning(), few, part=0.25)
    note("16 values", model)

    print("\n5. Trained as the file computes; zeros and values stay")
    small = compression.quantization_aware(
        activity.with_front_end(model, task.settings),
        task.calibration,
        delay_line=DELAY_LINE,
        weight_quantizer=one_range_a_matrix(),
    )
    few = compression.Clustering(CLUSTERS, preserve_sparsity=True)
    task.train(small, compression.Pruning(), few, part=0.1)
    note("trained in eight bits", small)

    print_table(rows)
    path = options.output / "smaller.png"
    draw(path, rows, matrices)
    print(f"\nfiles and picture: {options.output}")


class Task:
    """The recogniser's data, trainings of it, and what a file of it costs."""

    def __init__(self, options):
        steps, length = (50, 300) if options.fast else (2000, None)
        self.settings = activity.Settings(
            steps=steps,
            batch_size=16 if options.fast else 32,
            interpolation="integer",
        )
        self.options = options
        self.recordings = hapt.load("train")
        self.heard = activity.through_front_end(self.recordings, self.settings)
        self.calibration = activity.calibration(self.recordings, 500)
        self.test = [
            (r.signal[:length], r.labels[:length]) for r in hapt.load("test")
        ]

    def train(self, model, *callbacks, part=1.0):
        """For a part of the steps, from that part of the rate on.

        What was made smaller is trained as long as the first time: it loses
        least.
        """
        settings = dataclasses.replace(
            self.settings,
            steps=round(part * self.settings.steps),
            learning_rate=part * self.settings.learning_rate,
        )
        activity.fit(
            model,
            self.recordings if is_quantised(model) else self.heard,
            settings,
            self.options.seed,
            epochs=5,
            extra=callbacks,
        )

    def measure(self, name, model, *precisions):
        """Rows of the table, one for each file."""
        if not is_quantised(model):
            model = activity.with_front_end(model, self.settings)
        files = keras_mgrade.export.to_tflite(
            model,
            self.options.output / (file_name(name) + "_{precision}.tflite"),
            list(precisions or ["mixed"]),
            # A model that was trained in eight bits has its ranges.
            None if is_quantised(model) else self.calibration,
            delay_line=DELAY_LINE,
            proof_steps=200 if self.options.fast else 10_000,
        )
        for precision, file in files.items():
            row = {
                "name": f"{name}, {precision}",
                "right": self.accuracy(file),
                "file": file.bytes,
                "compressed": len(gzip.compress(file.path.read_bytes())),
                "states": file.state_bytes,
                "arena": file.arena_bytes,
            }
            print(
                f"   {row['name']}: {row['right']:.2%} right, "
                f"{file.bytes:,} bytes"
            )
            yield row

    def accuracy(self, file):
        """Of the file in LiteRT, sample by sample through each recording."""
        runner = keras_mgrade.export.LiteRTRunner(file.path)
        right = []
        for signal, labels in tqdm(self.test, "   streaming", leave=False):
            runner.reset()
            answers = runner.run(signal).argmax(axis=-1)
            right.append((answers == labels)[labels >= 0])
        return float(np.mean(np.concatenate(right)))


def file_name(name):
    return name.replace(" ", "_").replace("%", "percent")


def is_quantised(model):
    """Whether it trains as its file computes, from raw samples on."""
    return any(isinstance(x, compression.QuantizedSteps) for x in model.layers)


def print_table(rows):
    print(
        f"\n{'':30}{'right':>8}{'file':>9}{'compressed':>12}"
        f"{'states, lines':>15}{'arena':>8}"
    )
    print("-" * 82)
    for row in rows:
        arena = "-" if row["arena"] is None else f"{row['arena']:,}"
        print(
            f"{row['name']:30}{row['right']:>8.2%}{row['file']:>9,}"
            f"{row['compressed']:>12,}{row['states']:>15,}{arena:>8}"
        )
    print(
        "right: labelled samples of nine people not trained on, in LiteRT;\n"
        "bytes of the file, of the file compressed by gzip, of states and\n"
        "delay lines that the program keeps, of TFLite Micro's arena in use"
    )


def draw(path, rows, matrices):
    """A matrix on its way, and what is left of the bytes."""
    figure = plt.figure(figsize=(12, 7.5), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=(2, 3))
    largest = max(np.abs(matrix).max() for matrix in matrices.values())
    height, width = np.max([m.shape for m in matrices.values()], axis=0)
    panels = above.subplots(1, len(matrices))
    for axis, (name, matrix) in zip(panels, matrices.items(), strict=True):
        picture = axis.imshow(
            np.where(matrix == 0, np.nan, matrix),
            cmap="PuOr",
            vmin=-largest,
            vmax=largest,
        )
        axis.set(
            title=f"{name}\n{len(np.unique(matrix)):,} values",
            xlabel="gates, candidates",
            # To one scale.
            xlim=(-0.5, width - 0.5),
            ylim=(height - 0.5, -0.5),
        )
    panels[0].set_ylabel("inputs")
    above.suptitle("The second block's MinGRU")
    above.colorbar(picture, ax=panels, shrink=0.6, label="weight")

    axis = below.subplots()
    places = np.arange(len(rows))
    for shift, key, label in (
        (-0.27, "file", "file"),
        (0, "compressed", "file, compressed"),
        (0.27, "states", "states and delay lines"),
    ):
        values = [row[key] / 1000 for row in rows]
        axis.bar(places + shift, values, 0.25, label=label)
    axis.set_xticks(
        places, [f"{row['name']}\n{row['right']:.2%} right" for row in rows]
    )
    axis.set_ylabel("kB")
    axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(ARGUMENTS)
