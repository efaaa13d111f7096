"""How does a keyword spotter get from recordings to a microcontroller?

Downloads the test recordings of Google Speech Commands (twelve classes, 112
MB), trains a recogniser that listens to the microphone's own samples, converts
it, holds the files against Keras on speakers that it never heard, and writes
what a firmware needs: `out/keyword_to_microcontroller/bundle`.

    python examples/keyword_to_microcontroller.py          # some four minutes
    python examples/keyword_to_microcontroller.py --fast   # a minute, offline
"""

import argparse
import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
OUTPUT = HERE / "out" / "keyword_to_microcontroller"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--backend",
    choices=["jax", "tensorflow", "torch"],
    default=os.environ.get("KERAS_BACKEND", "jax"),
    help="what Keras trains with (default: %(default)s)",
)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--fast",
    action="store_true",
    help="a few epochs on the hundred clips that come with the examples",
)
parser.add_argument(
    "--data",
    type=pathlib.Path,
    help="the recordings, if they are here: a folder of folders of .wav "
    "files, or an .npz file (see keywords.py)",
)
parser.add_argument(
    "--output",
    type=pathlib.Path,
    default=OUTPUT,
    help="folder of all that is written (default: %(default)s)",
)
ARGUMENTS = parser.parse_args()
# Before Keras is imported: one backend a process.
os.environ["KERAS_BACKEND"] = ARGUMENTS.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

import keras_mgrade  # noqa: E402
import keywords  # noqa: E402
from keras_mgrade.export import LiteRTRunner, TFLMRunner  # noqa: E402

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

PRECISIONS = ("float32", "mixed")


def main(options):
    options.output.mkdir(parents=True, exist_ok=True)

    print("1. The recordings")
    data = options.data or (keywords.SMALL if options.fast else None)
    train, held_out, test = keywords.load(data)
    for name, part in (
        ("to train", train),
        ("held out", held_out),
        ("to test", test),
    ):
        print(f"   {name:9}{len(part.y):6,} clips of one second")

    print("\n2. The model, trained on whole clips")
    keras.utils.set_random_seed(options.seed)
    model = keywords.make_model()
    epochs = 40 if options.fast else 60
    keywords.train(model, train, epochs, options.seed)
    print(f"   held out: {keywords.accuracy(model, held_out):.1%} right")
    model.save(options.output / "words.keras")

    print("\n3. What it takes on a device, before anything is converted")
    print(keras_mgrade.memory_report(model))

    print("\n4. The files, each proved against the Keras stream")
    files = keras_mgrade.export.to_tflite(
        model,
        options.output / "words_{precision}.tflite",
        PRECISIONS,
        calibration=keywords.calibration(train),
        proof_steps=1000 if options.fast else 10_000,
    )
    print(files["mixed"])

    print("\n5. Speakers that the model never heard")
    logits = score(model, files, test)

    print("\n6. What a firmware needs")
    bundle = options.output / "bundle"
    files["mixed"].save_bundle(bundle)
    for path in sorted(bundle.iterdir()):
        print(f"   {path.stat().st_size:>9,}  {path.name}")
    checked = keras_mgrade.export.check(bundle / "model.tflite", test.x[0])
    for found in checked.deviations:
        print(f"   checked, {found.runtime}: {found.rms:.2%} apart (rms)")
    print(f"   {bundle / 'README.md'} says how it gets onto a board")

    picture = options.output / "keyword_to_microcontroller.png"
    draw(picture, model, files["mixed"], test, logits)
    print(f"\npicture: {picture}")


def score(model, files, test):
    """Prints the table; the logits of Keras."""
    logits = model.predict(test.x, batch_size=256, verbose=0)
    rows = {"Keras, whole clips": (logits, "", "")}
    for precision, file in files.items():
        for runtime, runner in runtimes(file).items():
            rows[f"{runtime}, {precision}"] = (
                answers(runner(file.path), test.x, f"{runtime}, {precision}"),
                f"{file.bytes:,}",
                f"{file.arena_needed:,}" if runtime == "TFLite Micro" else "",
            )
    print(f"{'':24}{'right':>7}{'other answer':>15}{'file':>9}{'arena':>9}")
    for name, (found, size, arena) in rows.items():
        right = np.mean(found.argmax(axis=-1) == test.y)
        other = np.mean(found.argmax(axis=-1) != logits.argmax(axis=-1))
        print(f"{name:24}{right:>7.1%}{other:>15.1%}{size:>9}{arena:>9}")
    print(
        "other answer: than Keras gives; file, and arena to set aside, in bytes"
    )
    return logits


def runtimes(file):
    """Those that ran the file when it was proved."""
    found = {"LiteRT": LiteRTRunner}
    if file.arena_bytes is not None:
        found["TFLite Micro"] = TFLMRunner
    return found


def answers(runner, clips, name):
    """The answer after each clip, sample by sample from a fresh start."""
    found = []
    for clip in tqdm(clips, desc=f"   {name}", unit="clip", leave=False):
        runner.reset()
        found.append(runner.run(clip)[-1])
    return np.stack(found)


def draw(path, model, file, test, logits):
    """Three words: what the model hears, and what it makes of it."""
    sure = np.where(
        logits.argmax(axis=-1) == test.y, logits.max(axis=-1), -np.inf
    )
    # One of each of the words, the clearest.
    picks = [
        max(np.flatnonzero(test.y == word), key=lambda i: sure[i])
        for word in (2, 3, 10)
    ]
    front_end = keras.Model(model.input, model.get_layer("bands").output)
    stream = keras_mgrade.streaming_model(model, batch_size=1)
    step = keras_mgrade.compile_step(stream)
    device, runner = list(runtimes(file).items())[-1]
    runner = runner(file.path)
    figure, axes = plt.subplots(
        2,
        len(picks),
        figsize=(12, 6),
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    seconds = np.arange(keywords.FRAMES) / 100
    for (above, below), index in zip(axes.T, picks, strict=True):
        clip, word = test.x[index], test.y[index]
        heard = front_end.predict(clip[None], verbose=0)[0]
        above.imshow(
            heard.T,
            origin="lower",
            aspect="auto",
            extent=(0, 1, 0, keywords.BANDS),
        )
        above.set_title(keywords.CLASS_NAMES[word])
        states = keras_mgrade.initial_states(stream)
        by_keras = []
        for frame in clip:
            answer, states = step(frame[None], states)
            by_keras.append(keras.ops.convert_to_numpy(answer)[0])
        runner.reset()
        on_device = runner.run(clip)
        for name, found, style in (
            ("Keras", np.stack(by_keras), "-"),
            (f"{device}, mixed", on_device, "."),
        ):
            share = np.exp(found - found.max(axis=-1, keepdims=True))
            share /= share.sum(axis=-1, keepdims=True)
            below.plot(seconds, share[:, word], style, label=name)
        below.set(xlabel="time (s)", ylim=(-0.05, 1.05))
    axes[0, 0].set_ylabel("band")
    axes[1, 0].set_ylabel("share of the word")
    axes[1, 0].legend(loc="lower right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(ARGUMENTS)
