"""How is one model trained on more than one device?

With the engine that each backend has: `keras.distribution` on JAX,
`tf.distribute.MirroredStrategy` on TensorFlow, `DistributedDataParallel` on
PyTorch. Every device has a copy of the weights and a part of each batch, and
the gradients are averaged. So the weights must come out as on one device,
which this script tests over the first steps, before it trains to the end.

    python examples/more_than_one_device.py --backend jax
    python examples/more_than_one_device.py --backend tensorflow
    python examples/more_than_one_device.py --backend torch
    (each --fast: under a minute)

Accelerators are taken where there are enough of them; else a processor stands
for several devices, which gains nothing and tests the same thing.
"""

import argparse
import gc
import os
import socket
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--backend",
    choices=["jax", "tensorflow", "torch"],
    default=os.environ.get("KERAS_BACKEND", "jax"),
    help="what Keras trains with (default: %(default)s)",
)
parser.add_argument("--devices", type=int, default=2)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--fast", action="store_true", help="a small part of everything"
)
BATCH_SIZE = 64  # of all devices together
if __name__ == "__main__":
    ARGUMENTS = parser.parse_args()
    if ARGUMENTS.devices < 1 or BATCH_SIZE % ARGUMENTS.devices:
        parser.error(
            f"--devices must divide the batch of {BATCH_SIZE}. "
            f"Received: --devices {ARGUMENTS.devices}"
        )
    # Before Keras is imported: one backend a process.
    os.environ["KERAS_BACKEND"] = ARGUMENTS.backend
    if ARGUMENTS.backend == "jax":
        # JAX's way to let one processor be several devices.
        flag = f"--xla_force_host_platform_device_count={ARGUMENTS.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import hapt  # noqa: E402
from keras_mgrade import MGrade, TemporalPooling  # noqa: E402

EPOCHS = 8
LEARNING_RATE = 0.05
# Over the first steps both train the same model, but for rounding: to this
# share of how far the weights move.
FIRST_STEPS = 10
TOLERANCE = 1e-4


def make_model(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((hapt.WINDOW, 6)),
            MGrade(16, kernel_size=4, max_delay=32),
            TemporalPooling("mean"),
            keras.layers.Dense(len(hapt.CLASS_NAMES)),
        ]
    )


def windows(split, fast):
    x, y = hapt.load(split).windows()
    order = np.random.default_rng(0).permutation(len(x))
    order = order[: 640 if fast else None]
    # Whole batches, which divide among the devices.
    order = order[: len(order) // BATCH_SIZE * BATCH_SIZE]
    return x[order], y[order].astype("int32")


def fit(model, x, y, epochs):
    """The same for JAX and TensorFlow, on one device and on several."""
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Under a strategy TensorFlow runs graphs: so too on one device.
        jit_compile=keras.backend.backend() == "jax",
    )
    model.fit(x, y, BATCH_SIZE, epochs, shuffle=False, verbose=0)
    return model.get_weights()


def on_jax(options, devices, x, y, epochs):
    """`keras.distribution`: says how arrays lie on devices, JAX does it."""
    import jax

    if devices == 1:
        return fit(make_model(options.seed), x, y, epochs)
    found = jax.devices()
    if len(found) < devices:
        found = jax.devices("cpu")
    chosen = [f"{d.platform}:{d.id}" for d in found[:devices]]
    parallel = keras.distribution.DataParallel(devices=chosen)
    with parallel.scope():
        return fit(make_model(options.seed), x, y, epochs)


def on_tensorflow(options, devices, x, y, epochs):
    """`MirroredStrategy`: the model is made and compiled in its scope."""
    import tensorflow as tf

    if devices == 1:
        return fit(make_model(options.seed), x, y, epochs)
    several = len(tf.config.list_logical_devices("GPU")) >= devices
    kind = "GPU" if several else "CPU"
    names = [f"/{kind}:{i}" for i in range(devices)]
    with tf.distribute.MirroredStrategy(names).scope():
        return fit(make_model(options.seed), x, y, epochs)


def several_processors(devices):
    """TensorFlow's way to let one processor be several devices.

    Before anything else is asked of TensorFlow.
    """
    import tensorflow as tf

    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * devices
    )


def on_torch(options, devices, x, y, epochs):
    """`DistributedDataParallel`: one process a device, a loop of one's own."""
    import torch.multiprocessing

    with socket.socket() as free:
        free.bind(("localhost", 0))
        os.environ["MASTER_ADDR"] = "localhost"
        os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    on_gpu = torch.cuda.device_count() >= devices
    # What Keras computes on, in the processes that are started.
    os.environ["KERAS_TORCH_DEVICE"] = "cuda" if on_gpu else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "weights.npz")
        torch.multiprocessing.spawn(
            torch_worker,
            (devices, on_gpu, options.seed, x, y, epochs, path),
            nprocs=devices,
        )
        with np.load(path) as weights:
            return list(weights.values())


def torch_worker(rank, devices, on_gpu, seed, x, y, epochs, path):
    import torch
    import torch.distributed as distributed

    if on_gpu:
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", rank=rank, world_size=devices
    )
    weights = torch_replica(rank, devices, seed, x, y, epochs)
    # The parallel model must be gone before its group is: PyTorch may wait
    # for ever where the model is the last to know the group.
    gc.collect()
    distributed.destroy_process_group()
    if rank == 0:
        np.savez(path, *weights)


def torch_replica(rank, devices, seed, x, y, epochs):
    """Trains one process's copy of the model; its weights."""
    import torch

    # A Keras model is a `torch.nn.Module`.
    model = make_model(seed)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    # Keras's optimiser, which knows the constraints of delays and widths.
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
    weights = model.trainable_weights
    criterion = torch.nn.CrossEntropyLoss()
    for _ in range(epochs):
        for start in range(0, len(x), BATCH_SIZE):
            # The part of the batch that is this device's.
            mine = slice(start + rank, start + BATCH_SIZE, devices)
            model.zero_grad()
            logits = parallel(torch.as_tensor(x[mine]))
            labels = torch.as_tensor(y[mine]).long().to(logits.device)
            criterion(logits, labels).backward()
            with torch.no_grad():
                optimizer.apply([w.value.grad for w in weights], weights)
    return model.get_weights()


TRAIN = {"jax": on_jax, "tensorflow": on_tensorflow, "torch": on_torch}


def train(options, devices, x, y, epochs):
    """The weights after training on so many devices."""
    return TRAIN[keras.backend.backend()](options, devices, x, y, epochs)


def main(options):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        several_processors(options.devices)
    x, y = windows("train", options.fast)
    x_test, y_test = windows("test", options.fast)
    epochs = 2 if options.fast else EPOCHS

    # Float32 sums in another order: 1e-7 after a step, anything in the end.
    few = slice(0, FIRST_STEPS * BATCH_SIZE)
    first = [
        train(options, devices, x[few], y[few], 1)
        for devices in (1, options.devices)
    ]
    moved = distance(make_model(options.seed).get_weights(), first[0])
    apart = distance(*first)
    print(
        f"first {FIRST_STEPS} steps: weights move by {moved:.2g}, and are "
        f"{apart:.0e} apart\n\n{backend:12}seconds   accuracy\n{'-' * 30}"
    )
    if not apart <= TOLERANCE * moved:
        raise SystemExit("the devices do not train the same model")
    for devices in (1, options.devices):
        start = time.perf_counter()
        trained = train(options, devices, x, y, epochs)
        seconds = time.perf_counter() - start
        model = make_model(options.seed)
        model.set_weights(trained)
        logits = model.predict(x_test, batch_size=256, verbose=0)
        accuracy = np.mean(np.argmax(logits, axis=-1) == y_test)
        name = "1 device" if devices == 1 else f"{devices} devices"
        print(f"{name:12}{seconds:>7.1f}{accuracy:>11.1%}", flush=True)


def distance(weights, others):
    """The largest difference of any weight."""
    return max(
        np.abs(w - o).max() for w, o in zip(weights, others, strict=True)
    )


if __name__ == "__main__":
    main(ARGUMENTS)
