"""The results of `speed.py` as tables, held against their targets."""

import json

import speed_plot
from results_file import write_whole
from speed_targets import MODES, ratios

SEVERAL = {
    "recurrence": "The recurrence, forward and backward: batch 32, 1,024 "
    "steps, 64 channels",
    "recurrence, memory taken anew": "The same with the allocator as it is by "
    "default, which gives large arrays back",
    "choices": "What the layers choose between, forward and backward",
    "taps": "Delay taps, forward and backward: 8 taps a channel up to delay "
    "127, the same array",
}
NOT_TIMES = ("regrowth", "growth")


def write(results, path):
    """`path` with the suffixes .json, .md and .png."""
    text = "\n".join(report(results)) + "\n"
    write_whole(path.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
    write_whole(path.with_suffix(".md"), text)
    speed_plot.draw(results["rows"], path.with_suffix(".png"))


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
    backends = list(dict.fromkeys(row["mode"] for row in rows))
    found = {(row["steps"], row["mode"]): row for row in rows}
    yield ""
    yield "## Growth: one training step of an MGrade model, batch 1"
    yield ""
    heads = " | ".join(f"{backend}, ms | MB" for backend in backends)
    yield f"| steps | {heads} |"
    yield "|---" * (1 + 2 * len(backends)) + "|"
    for steps in sorted({row["steps"] for row in rows}):
        line = [f"{steps:,}"]
        for backend in backends:
            row = found.get((steps, backend))
            line += (
                [f"{row['ms']:.1f}", f"{row['MB']:.0f}"] if row else ["", ""]
            )
        yield "| " + " | ".join(line) + " |"


def targets(rows):
    """A table of every ratio that has a target."""
    yield ""
    yield "## Ratios"
    yield ""
    yield "| work, beside what | at | reached | |"
    yield "|---|---|---|---|"
    for work, mode, value, sign, bound in ratios(rows):
        met = value <= bound if sign == "<=" else value >= bound
        wanted = "at most" if sign == "<=" else "at least"
        verdict = "" if met else " **missed**"
        yield f"| {work} | {mode} | {value:.2g} | {wanted} {bound}{verdict} |"
