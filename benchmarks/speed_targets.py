"""What `speed.py` has to reach: ratios of its times, and their bounds."""

import math

MODES = ("jax", "tensorflow compiled", "tensorflow graph", "torch")
# What a recurrence may take, in times that eight arrays are moved.
RECURRENCE = dict(zip(MODES, (2.5, 3.5, 6, 5), strict=True))


def times_of(rows):
    """A function from part, name and mode to a time, NaN where unknown."""
    known = {
        (row["part"], row["name"], row["mode"]): row.get("ms", math.nan)
        for row in rows
    }
    return lambda *key: known.get(key, math.nan)


def best(clock, part, name, mode):
    """Of a peer: the faster of TensorFlow's two ways."""
    same = [m for m in MODES if m.split()[0] == mode.split()[0]]
    known = [clock(part, name, m) for m in same]
    return min((t for t in known if not math.isnan(t)), default=math.nan)


def ratios(rows):
    """`(work, mode, value, sign, bound)`, without what was not measured."""
    clock = times_of(rows)
    for found in (
        *recurrence(clock),
        *taps(clock),
        *training(clock),
        *networks(clock),
        *shares(rows),
        *exponents(rows),
    ):
        if not math.isnan(found[2]):
            yield found


def recurrence(clock):
    for mode in MODES:
        ours = clock("recurrence", "keras_mgrade", mode)
        yield (
            "recurrence, beside moving its eight arrays",
            mode,
            ours / clock("recurrence", "eight arrays moved", mode),
            "<=",
            RECURRENCE[mode],
        )
        for part in ("recurrence", "recurrence, memory taken anew"):
            yield (
                f"{part}: times as fast as `keras.ops.associative_scan`",
                mode,
                best(clock, part, "keras.ops.associative_scan", mode)
                / clock(part, "keras_mgrade", mode),
                ">=",
                {"jax": 12, "torch": 7}.get(mode, 8),
            )


def taps(clock):
    for mode in MODES:
        whole = clock("taps", "integer", mode)
        yield (
            "integer taps, beside moving the recurrence's eight arrays",
            mode,
            whole / clock("taps", "eight arrays moved", mode),
            "<=",
            10,
        )
        linear = clock("taps", "linear", mode)
        yield "linear taps, beside integer ones", mode, linear / whole, "<=", 2
        yield (
            "integer taps: times as fast as a dense convolution",
            mode,
            clock("taps", "dense depthwise convolution", mode) / whole,
            ">=",
            dict(zip(MODES, (15, 50, 1, 2), strict=True))[mode],
        )
    for name, peer, bound in (
        ("integer", "bilinear", 3),
        ("linear", "bilinear", 3),
        ("Gaussian", "Gaussian", 1),
    ):
        yield (
            f"{name} taps: times as fast as DCLS's {peer} ones",
            "torch",
            clock("taps", f"DCLS, {peer}", "torch")
            / clock("taps", name, "torch"),
            ">=",
            bound,
        )


def training(clock):
    for mode in MODES:
        for length in (32, 256, 1024):
            part = f"training, {length} steps"
            ours = clock(part, "MinGRU", mode)
            moved = clock("recurrence", "eight arrays moved", mode)
            budget = RECURRENCE[mode] * moved * length / 1024
            if length > 32:
                yield (
                    f"MinGRU, {length} steps, beside Dense(128) and its "
                    "recurrence's target",
                    mode,
                    ours / (clock(part, "Dense(128)", mode) + budget),
                    "<=",
                    1.3,
                )
                yield (
                    f"MinGRU, {length} steps: times as fast as mingru-keras",
                    mode,
                    best(clock, part, "mingru-keras", mode) / ours,
                    ">=",
                    5,
                )
            for name, peer in (
                ("MinGRU", "GRU"),
                ("MinGRU", "LSTM"),
                ("MinGRU", "torch.nn.GRU"),
                ("MinGRU", "torch.nn.LSTM"),
                ("MinGRU, PyTorch's own loop", "torch.nn.GRU"),
                ("MinGRU, PyTorch's own loop", "torch.nn.LSTM"),
            ):
                yield (
                    f"{name}, {length} steps: times as fast as {peer}",
                    mode,
                    best(clock, part, peer, mode) / clock(part, name, mode),
                    ">=",
                    1,
                )


def networks(clock):
    part, products = "paper's model", "its matrix products alone"
    by_mode = {mode: clock(part, part, mode) for mode in MODES}
    known = {m: t for m, t in by_mode.items() if not math.isnan(t)}
    if known:
        mode = min(known, key=known.get)
        yield (
            "paper's model, beside its matrix products, fastest backend",
            mode,
            known[mode] / clock(part, products, mode),
            "<=",
            3,
        )
    for mode in MODES:
        yield (
            "paper's model: first training step, beside two layers of GRU",
            mode,
            clock("first training step", part, mode)
            / clock("first training step", "two layers of GRU", mode),
            "<=",
            2,
        )
        yield (
            "one step of a stream: MinGRU, beside a stateful GRU",
            mode,
            clock("one step of a stream", "MinGRU", mode)
            / clock("one step of a stream", "stateful GRU", mode),
            "<=",
            1,
        )


def shares(rows):
    for row in rows:
        if row["part"] == "regrowth":
            work = f"regrowth, {row['name']}"
            yield work, row["mode"], row["share"], "<=", 0.15
        if row["part"] == "import":
            work = "ms to import keras_mgrade, on top of keras"
            yield work, row["mode"], row["ms"], "<=", 300


def exponents(rows):
    for backend in ("jax", "tensorflow", "torch"):
        grown = [
            row
            for row in rows
            if row["part"] == "growth" and row["mode"] == backend
        ]
        if not grown:
            continue
        # Over an eightfold at least: two neighbours differ by chance.
        last = grown[-1]
        shorter = [r for r in grown if 8 * r["steps"] <= last["steps"]]
        for first in shorter[-1:]:
            steps = math.log(last["steps"] / first["steps"])
            for what in ("ms", "MB"):
                if first[what] > 0:
                    yield (
                        f"growth of {what} with the steps, exponent at the end",
                        backend,
                        math.log(last[what] / first[what]) / steps,
                        "<=",
                        1.1,
                    )
