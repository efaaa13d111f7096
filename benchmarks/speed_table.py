"""The results of `speed.py` as tables, held against their targets."""

import json
import math

import speed_plot

MODES = ("jax", "tensorflow compiled", "tensorflow graph", "torch")
# What a recurrence may take, in times that eight arrays are moved.
RECURRENCE = dict(zip(MODES, (2.5, 3.5, 6, 5), strict=True))
SEVERAL = {
    "recurrence": "The recurrence, forward and backward: batch 32, 1,024 "
    "steps, 64 channels",
    "taps": "Delay taps, forward and backward: 8 taps a channel up to delay "
    "127, the same array",
}
NOT_TIMES = ("regrowth", "growth")


def write(results, path):
    """`path` with the suffixes .json, .md and .png."""
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    text = "\n".join(report(results)) + "\n"
    path.with_suffix(".md").write_text(text)
    speed_plot.draw(results["rows"], path.with_suffix(".png"))
    print(text)


def report(results):
    """The lines of the document."""
    rows = results["rows"]
    versions = ", ".join(
        f"{name} {version}" for name, version in results["versions"].items()
    )
    yield "# Speed"
    yield ""
    yield f"{results['machine']}. {versions}."
    yield "Medians in ms, and between what half of the times lie."
    yield from targets(rows)
    for part in dict.fromkeys(row["part"] for row in rows):
        if part not in NOT_TIMES:
            yield ""
            yield f"## {SEVERAL.get(part, part[0].upper() + part[1:])}"
            yield ""
            yield from times([row for row in rows if row["part"] == part])
    yield from growth([row for row in rows if row["part"] == "growth"])


def times(rows):
    modes = [m for m in MODES if any(row["mode"] == m for row in rows)]
    yield "| | " + " | ".join(modes) + " |"
    yield "|---" * (len(modes) + 1) + "|"
    found = {(row["name"], row["mode"]): row for row in rows}
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = [cell(found.get((name, mode))) for mode in modes]
        yield f"| {name} | " + " | ".join(cells) + " |"


def cell(row):
    if row is None:
        return ""
    if "error" in row:
        return "does not run"
    text = f"{row['ms']:.3g}"
    if "low" in row:
        text += f" ({row['low']:.3g}-{row['high']:.3g})"
    return text


def growth(rows):
    if not rows:
        return
    yield ""
    yield "## Growth: one training step of an MGrade model, batch 1"
    yield ""
    yield (
        "| steps | "
        + " | ".join(
            f"{backend}, ms | MB" for backend in ("jax", "tensorflow", "torch")
        )
        + " |"
    )
    yield "|---" * 7 + "|"
    for steps in sorted({row["steps"] for row in rows}):
        line = [f"{steps:,}"]
        for backend in ("jax", "tensorflow", "torch"):
            row = [
                r for r in rows if (r["steps"], r["mode"]) == (steps, backend)
            ]
            line += [f"{row[0]['ms']:.1f}", f"{row[0]['MB']:.0f}"] if row else [
                "", "",
            ]  # fmt: skip
        yield "| " + " | ".join(line) + " |"


def targets(rows):
    """A table of every ratio that has a target."""
    yield ""
    yield "## Ratios"
    yield ""
    yield "| work, beside what | at | reached | |"
    yield "|---|---|---|---|"
    clock = Clock(rows)
    for work, mode, value, sign, bound in ratios(clock):
        met = value <= bound if sign == "<=" else value >= bound
        wanted = "at most" if sign == "<=" else "at least"
        verdict = "" if met else " **missed**"
        yield f"| {work} | {mode} | {value:.2g} | {wanted} {bound}{verdict} |"


class Clock:
    """Looks times up."""

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, part, name, mode):
        for row in self.rows:
            if (row["part"], row["name"], row["mode"]) == (part, name, mode):
                return row.get("ms", math.nan)
        return math.nan

    def best(self, part, name, mode):
        """Of a peer: the faster of TensorFlow's two ways."""
        same = [m for m in MODES if m.split()[0] == mode.split()[0]]
        known = [self(part, name, m) for m in same]
        return min((t for t in known if not math.isnan(t)), default=math.nan)


def ratios(clock):
    """`(work, mode, value, sign, bound)`, without what was not measured."""
    for found in (
        *operations(clock),
        *training(clock),
        *networks(clock),
        *shares(clock.rows),
    ):
        if not math.isnan(found[2]):
            yield found


def operations(clock):
    for mode in MODES:
        ours = clock("recurrence", "keras_mgrade", mode)
        yield (
            "recurrence, beside moving its eight arrays",
            mode,
            ours / clock("recurrence", "eight arrays moved", mode),
            "<=",
            RECURRENCE[mode],
        )
        scan = clock.best("recurrence", "keras.ops.associative_scan", mode)
        yield (
            "recurrence: times as fast as `keras.ops.associative_scan`",
            mode,
            scan / ours,
            ">=",
            {"jax": 12, "torch": 7}.get(mode, 8),
        )
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
                    clock.best(part, "mingru-keras", mode) / ours,
                    ">=",
                    5,
                )
            for peer in ("GRU", "LSTM", "torch.nn.GRU", "torch.nn.LSTM"):
                yield (
                    f"MinGRU, {length} steps: times as fast as {peer}",
                    mode,
                    clock.best(part, peer, mode) / ours,
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
    for backend in ("jax", "tensorflow", "torch"):
        grown = [
            row
            for row in rows
            if row["part"] == "growth" and row["mode"] == backend
        ]
        if len(grown) > 1:
            first, last = grown[-2], grown[-1]
            steps = math.log(last["steps"] / first["steps"])
            for what in ("ms", "MB"):
                yield (
                    f"growth of {what} with the steps, exponent at the end",
                    backend,
                    math.log(last[what] / first[what]) / steps,
                    "<=",
                    1.1,
                )
