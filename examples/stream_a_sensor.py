"""How do I run a model on a live sensor stream?

Trains a small activity recogniser that answers at every sample, then runs it
on two sensors side by side as a live program would: sample by sample, in
chunks, across a restart, and with one sensor handed to another person. Each
way has to give the answers that the model gives on whole recordings.

    python examples/stream_a_sensor.py            # a minute, two cores
    python examples/stream_a_sensor.py --fast     # under 30 s
"""

import argparse
import os
import pathlib
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--backend",
    choices=["jax", "tensorflow", "torch"],
    default=os.environ.get("KERAS_BACKEND", "jax"),
    help="what Keras runs on (default: %(default)s)",
)
parser.add_argument(
    "--fast", action="store_true", help="a small part of everything"
)
ARGUMENTS = parser.parse_args()
# Before Keras is imported: one backend a process.
os.environ["KERAS_BACKEND"] = ARGUMENTS.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import hapt  # noqa: E402
import keras_mgrade  # noqa: E402

SENSORS = 2
CHUNK = 50  # samples, one second
STRETCH = 256  # samples of a training example

# Of the largest logit: some ten times what float32 rounds.
BOUND = 1e-5


def main(fast, folder):
    model = train(hapt.load("train"), fast)
    # Two people wear the sensors; a third one will take over the second.
    people = hapt.load("test")[:6:2]
    length = 1000 if fast else 3000
    x = np.stack([person.signal[:length] for person in people])
    whole = model.predict(x, verbose=0)

    print(f"\n{'':26}largest difference   us a sample")
    print("A stream: you hold the states")
    run_a_stream(model, cuts(x), cuts(whole), folder)
    print("A stateful model: its layers hold them")
    run_a_stateful_model(model, cuts(x), cuts(whole), folder)
    print("difference: from whole sequences, of the largest logit")
    print(f"a sample: one of each of the {SENSORS} sensors")


def train(recordings, fast):
    """A model from raw samples, in g and rad/s, to logits at every sample."""
    x, y = [], []
    for recording in recordings[::8] if fast else recordings:
        for start in range(0, len(recording.labels) - STRETCH, STRETCH):
            x.append(recording.signal[start : start + STRETCH])
            y.append(recording.labels[start : start + STRETCH])
    keras.utils.set_random_seed(0)
    model = keras_mgrade.models.mgrade_classifier(6, len(hapt.CLASS_NAMES))
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=-1
    )
    model.compile(keras.optimizers.Adam(3e-3, global_clipnorm=1.0), loss)
    model.fit(np.stack(x), np.stack(y), batch_size=32, epochs=1 if fast else 6)
    return model


def cuts(rows):
    """Both sensors: the whole, each half, and the second half handed over."""
    half = rows.shape[1] // 2
    both = rows[:SENSORS]
    # Who takes over the second sensor is new to it.
    handed_over = np.stack([rows[0, half:], rows[2, :half]])
    return both, both[:, :half], both[:, half:], handed_over


def run_a_stream(model, cuts_of_x, expected, folder):
    x, before, after, handed_over = cuts_of_x
    stream = keras_mgrade.streaming_model(model, batch_size=SENSORS)
    step = keras_mgrade.compile_step(stream)
    start = keras_mgrade.initial_states(stream)
    compare_sizes(lambda x, n: feed(step, x, start, n)[0], x, expected[0])

    # The file of the model and that of the states are all a new process has.
    _, states = feed(step, before, start)
    names = [state.name for state in stream.inputs[1:]]
    arrays = [keras.ops.convert_to_numpy(state) for state in states]
    save(folder / "states.npz", dict(zip(names, arrays, strict=True)))
    stream.save(folder / "stream.keras")
    again = keras.saving.load_model(folder / "stream.keras")
    with np.load(folder / "states.npz") as saved:
        arrays = [saved[state.name] for state in again.inputs[1:]]
    loaded = [keras.ops.convert_to_tensor(array) for array in arrays]
    answers, _ = feed(keras_mgrade.compile_step(again), after, loaded)
    report("restarted", answers, expected[2])

    # The first sensor goes on, the second one forgets who wore it.
    states = keras_mgrade.reset_rows(states, rows=1)
    report("handed over", feed(step, handed_over, states)[0], expected[3])


def feed(step, x, states, size=1):
    """The answers to `x`, `size` samples a call, and the states after it."""
    answers = []
    for t in range(0, x.shape[1], size):
        # A chunk has a time axis, a sample has none.
        samples = x[:, t] if size == 1 else x[:, t : t + size]
        answer, states = step(samples, states)
        # Waits for it, as whoever needs the answer now would.
        answers.append(keras.ops.convert_to_numpy(answer))
    join = np.stack if size == 1 else np.concatenate
    return join(answers, axis=1), states


def run_a_stateful_model(model, cuts_of_x, expected, folder):
    x, before, after, handed_over = cuts_of_x
    make_stateful(model).save(folder / "stateful.keras")
    model = keras.saving.load_model(folder / "stateful.keras")
    compare_sizes(lambda x, n: predict_anew(model, x, n), x, expected[0])

    predict_anew(model, before)
    # A model's own file holds its weights, not its states.
    save(folder / "states.npz", keras_mgrade.get_states(model))
    again = keras.saving.load_model(folder / "stateful.keras")
    with np.load(folder / "states.npz") as saved:
        keras_mgrade.set_states(again, dict(saved))
    report("restarted", predict(again, after), expected[2])

    keras_mgrade.reset_states(model, rows=1)
    report("handed over", predict(model, handed_over), expected[3])


def make_stateful(model):
    """The same layers and weights, for a known number of rows."""

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, keras_mgrade.MGrade):
            config["stateful"] = True
        return type(layer).from_config(config)

    sensors = keras.Input(batch_shape=(SENSORS, None, 6))
    twin = keras.models.clone_model(model, sensors, clone_function=clone)
    twin.set_weights(model.get_weights())
    return twin


def predict(model, x, size=1):
    """The answers to `x`, `size` samples a call; the states stay inside."""
    starts = range(0, x.shape[1], size)
    answers = [model.predict_on_batch(x[:, t : t + size]) for t in starts]
    return np.concatenate(answers, axis=1)


def predict_anew(model, x, size=1):
    keras_mgrade.reset_states(model)
    return predict(model, x, size)


def save(path, states):
    """A program that dies here leaves the old file or the new one, whole."""
    partial = path.with_name("partial.npz")
    np.savez(partial, **states)
    partial.replace(path)


def compare_sizes(run, x, expected):
    for way, size in (("sample by sample", 1), (f"chunks of {CHUNK}", CHUNK)):
        run(x[:, :CHUNK], size)  # Compiles at the first call.
        begin = time.perf_counter()
        answers = run(x, size)
        seconds = time.perf_counter() - begin
        report(way, answers, expected, 1e6 * seconds / x.shape[1])


def report(way, answers, expected, microseconds=None):
    """Prints how far the answers are off; too far ends the script."""
    off = np.abs(answers - expected).max() / np.abs(expected).max()
    timed = "" if microseconds is None else f"{microseconds:>14.0f}"
    print(f"  {way:24}{off:>18.1e}{timed}", flush=True)
    if not off < BOUND:
        raise SystemExit(f"{way}: these are not the answers of the model")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(ARGUMENTS.fast, pathlib.Path(folder))
