"""`device_ram.md` from the rows of `device_ram.json`."""

from device_measure import OWN, USERS

HEAD = """\
# RAM of the step beside peers of equal accuracy

*Width*: the smallest of {widths} whose model is at most {points} points of
accuracy on the test set below the reference, the mGRADE model of width
{reference} with batch normalisation ({references}); found by bisection, which
takes it that a wider model is no worse; one seed. *Ours*: a step through this
package's exporter, for all families; delay lines held by the file, or by the
program in ring buffers. *As users*: a whole window (128 samples; the clip of
100 frames), GRU layers unrolled, all int8, by TensorFlow's converter alone.
*Mixed* is int8 with recurrent states in float32.

All files begin behind the front end, whose logarithms have no int8 form; only
*front end* rows begin with raw samples. *Keras* is the accuracy of the trained
model, *file* that of the file in LiteRT: of a step file on the same streams,
of a window's file on the clips, or on the 2,996 official windows of the
activity test set, answered at their last sample.

RAM = arena + kept. *Arena*: what TFLite Micro has in use, in bytes, recorded
by its Python wheel (x86-64, reference kernels); *values*: the part of it that
holds tensors, the rest describes tensors and operators and is smaller with
32-bit pointers. *Kept*: what the program holds between two steps, as
`tflite/main_loop.cc` does: a copy of each state, since the arena reuses the
places of inputs, and the rings. The window that a program would slide is
counted once, as the arena's input.
"""

COLUMNS = (
    "task, family",
    "way",
    "width",
    "Keras",
    "file",
    "bytes",
    "arena",
    "of it values",
    "states kept",
    "rings",
    "RAM",
    "of mGRADE's",
)


def table(rows, widths, reference, points):
    """The table, with what its columns mean."""
    references = ", ".join(
        f"{task} {share:.2%}"
        for task, share in {r["task"]: r["reference"] for r in rows}.items()
    )
    lines = [
        HEAD.format(
            widths=", ".join(map(str, widths)),
            reference=reference,
            points=points,
            references=references,
        ),
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(line(row, own_ram(rows, row["task"])) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def line(row, own):
    ram = ram_of(row)
    known = [
        f"{row['task']}, {row['family']}",
        way(row),
        str(row["width"]) + ("" if row["passed"] else " (does not reach it)"),
        f"{row['keras']:.2%}",
        f"{row['file']:.2%}",
        f"{row['bytes']:,}",
    ]
    if ram is None:
        known.append(row["error"])
        return "| " + " | ".join(known) + " |" * (len(COLUMNS) - 5)
    known += [
        f"{row[name]:,}" for name in ("arena", "tensors", "state", "rings")
    ]
    ratio = f"{ram / own:.2f}" if own else ""
    return "| " + " | ".join([*known, f"{ram:,}", ratio]) + " |"


def way(row):
    text = f"{row['way']}, {row['precision']}"
    if row["way"] == USERS or row["family"] == "GRU":
        return text
    return f"{text}, lines in the {LINES[row['lines']]}"


LINES = {"application": "program", "graph": "file"}


def ram_of(row):
    """Arena, kept states and rings; `None` where it did not run."""
    if "error" in row:
        return None
    return row["arena"] + row["state"] + row["rings"]


def own_ram(rows, task):
    """Of mGRADE's file of that task, as one would take it."""
    return next(
        (
            ram_of(row)
            for row in rows
            if (row["task"], row["family"]) == (task, "mGRADE")
            and (row["way"], row["precision"]) == (OWN, "mixed")
            and row["lines"] == "application"
        ),
        None,
    )
