"""From raw sensor samples to a microcontroller: the same answers everywhere.

Trains an activity recogniser on accelerometer and gyroscope samples, runs it
sample by sample as a device would, converts it to `.tflite` and runs the files
in LiteRT and in TFLite Micro's interpreter on the same recording.

    python examples/quickstart.py            # about three minutes, two cores
    python examples/quickstart.py --fast     # a small part, under a minute
"""

import argparse
import os
import pathlib
import time

OUTPUT = pathlib.Path(__file__).resolve().parent / "out" / "quickstart"


def parse_arguments():
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
    return parser.parse_args()


ARGUMENTS = parse_arguments()
# Before Keras is imported: one backend a process.
os.environ["KERAS_BACKEND"] = ARGUMENTS.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import activity  # noqa: E402
import hapt  # noqa: E402
import hapt_floor  # noqa: E402
import keras_mgrade  # noqa: E402
import quickstart_picture  # noqa: E402


def main(seed, fast, output):
    output.mkdir(parents=True, exist_ok=True)
    train, test = hapt.load("train"), hapt.load("test")
    recording = head(test[0], 2000) if fast else test[0]
    model, scores = train_and_score(train, test, seed, fast)
    model.save(output / "activity.keras")

    print(
        f"\n2. Streaming subject {recording.subject}: {len(recording.labels):,}"
        " samples, one at a time, never reset"
    )
    (whole,) = activity.whole_sequence_logits(model, [recording])
    runs = {
        "Keras, whole sequence": whole,
        "Keras, streaming": stream_with_keras(model, recording.signal),
    }

    print("\n3. Converting, and the same samples through the files")
    files = keras_mgrade.export.to_tflite(
        model,
        output / "activity_{precision}.tflite",
        precision=["float32", "mixed"],
        calibration=activity.calibration(train, 500 if fast else 2000),
    )
    runs.update(run_files(files, recording.signal))

    print(f"\n{table(runs, recording, model, files)}\n{scores}")
    picture = output / "quickstart.png"
    quickstart_picture.draw(picture, model, recording, runs)
    print(f"\nfiles and picture: {output}")


def train_and_score(train, test, seed, fast):
    """The trained model, and how well it does, in words."""
    backend = keras.backend.backend()
    print(f"\n1. Training on {len(train)} recordings with {backend}")
    settings = activity.Settings()
    if fast:
        settings = activity.Settings(steps=150, batch_size=16)
    start = time.perf_counter()
    model = activity.train(train, settings, seed, epochs=3 if fast else 10)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    windows = activity.window_accuracy(model, test, settings)
    logits = activity.whole_sequence_logits(model, test)
    samples = activity.sample_accuracy(logits, test)
    floor = hapt_floor.floor_accuracy(train, test)
    scores = (
        f"nine test subjects: {samples:.2%} of all labelled samples, from the "
        "start of each recording;\n"
        f"{windows:.2%} of the official windows, from zero state (logistic "
        f"regression on\nwindow statistics: {floor:.2%})"
    )
    print(scores)
    return model, scores


def run_files(files, signal):
    """Logits of every sample from every file in every runtime."""
    runs = {}
    for precision, file in files.items():
        runners = {"LiteRT": keras_mgrade.export.LiteRTRunner}
        if file.arena_bytes is None:
            print(f"TFLite Micro, {precision}: {file.arena_note}")
        else:
            runners["TFLite Micro"] = keras_mgrade.export.TFLMRunner
        for runtime, runner in runners.items():
            name = f"{runtime}, {precision}"
            start = time.perf_counter()
            runs[name] = runner(file.path).run(signal)
            seconds = time.perf_counter() - start
            print(f"{name}: {1e6 * seconds / len(signal):.0f} us a sample")
    return runs


def head(recording, length):
    """The part of a recording that begins a little before its first label."""
    start = max(0, int(np.argmax(recording.labels >= 0)) - 100)
    cut = slice(start, start + length)
    return hapt.Recording(
        recording.signal[cut],
        recording.labels[cut],
        recording.subject,
        recording.experiment,
        recording.window_starts[:0],
        recording.window_labels[:0],
    )


def stream_with_keras(model, signal):
    """Logits of every sample, `(time, classes)`, through a compiled step."""
    stream = keras_mgrade.streaming_model(model)
    step = keras_mgrade.compile_step(stream)
    states = keras_mgrade.initial_states(stream)
    progress = keras.utils.Progbar(len(signal), unit_name="sample")
    answers = []
    for t, sample in enumerate(signal[:, None], start=1):
        answer, states = step(sample, states)
        answers.append(answer)
        if t % 1000 == 0 or t == len(signal):
            progress.update(t)
    return np.concatenate([keras.ops.convert_to_numpy(a) for a in answers])


def table(runs, recording, model, files):
    whole = next(iter(runs.values()))
    largest = np.abs(whole).max()
    lines = [f"{'':24}accuracy   largest deviation", "-" * 52]
    for name, logits in runs.items():
        accuracy = activity.sample_accuracy([logits], [recording])
        deviation = np.abs(logits - whole).max() / largest
        shown = f"{deviation:.5%}" if deviation else "-"
        lines.append(f"{name:24}{accuracy:>8.2%}{shown:>20}")
    lines.append("accuracy: labelled samples of the streamed recording;")
    lines.append("deviation: from the whole sequence, of the largest logit\n")

    report = keras_mgrade.memory_report(model)
    total = report.total
    lines.append(
        f"parameters {total.parameters:,}; state {total.state:,} values, "
        f"delay lines {total.delay_line:,} (in use "
        f"{total.delay_line_in_use:,}); {total.multiply_adds:,} "
        "multiply-adds a sample"
    )
    for precision, file in files.items():
        arena = file.arena_note
        if file.arena_bytes is not None:
            arena = f"{file.arena_bytes:,} bytes"
        lines.append(
            f"{precision:8} file {file.bytes:,} bytes, states "
            f"{file.state_bytes:,} bytes, arena {arena}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(ARGUMENTS.seed, ARGUMENTS.fast, ARGUMENTS.output)
