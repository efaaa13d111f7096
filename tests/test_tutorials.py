"""The tutorials, a small part of each, in a process of its own."""

import pathlib
import re
import subprocess
import sys

import keras
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"


def on(backend):
    """Each tutorial once: what differs between backends is tested elsewhere.

    With two of them, for the sake of the time that each backend's tests take.
    """
    return pytest.mark.skipif(
        keras.backend.backend() != backend,
        reason=f"this tutorial is tested with {backend}",
    )


def run_fast(script, *arguments):
    """What a tutorial prints with `--fast`."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, "--fast", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@on("jax")
def test_stream_a_sensor():
    printed = run_fast("stream_a_sensor.py")
    rows = re.findall(
        r"^  (\w[\w ]*?) +(\d\S*e-\d+)(?: +(\d+))?$", printed, re.M
    )
    ways = ["sample by sample", "chunks of 50", "restarted", "handed over"]
    # As a stream, and as a stateful model.
    assert [way for way, *_ in rows] == 2 * ways
    for _, difference, _ in rows:
        # The same numbers to float32, by another way: not the same array.
        assert 0 < float(difference) < 1e-5
    for first in (0, 4):
        single, chunk = (float(rows[first + i][2]) for i in range(2))
        # Fifty samples a call cost less each than one.
        assert 0 < chunk < single


@on("jax")
def test_replace_a_gru():
    printed = run_fast("replace_a_gru.py")
    rows = re.findall(
        r"^([12] x \w+)\(64\) +([\d.]+)% +([\d.]+) +([\d,]+)$", printed, re.M
    )
    assert [row[0] for row in rows] == [
        f"{depth} x {layer}" for depth in (1, 2) for layer in ("GRU", "MinGRU")
    ]
    # Six classes of about one size: by chance, 17 %.
    assert all(float(accuracy) > 30 for _, accuracy, _, _ in rows)
    # Gate and candidate, kernel and bias; then the softmax.
    head = 65 * 6
    counts = [int(count.replace(",", "")) for *_, count in rows]
    assert counts[1] == 2 * 64 * 7 + head
    assert counts[3] == 2 * 64 * 7 + 2 * 64 * 65 + head
    assert counts[0] > 10 * counts[1] and counts[2] > 4 * counts[3]


@on("jax")
def test_what_delays_learn(tmp_path):
    printed = run_fast("what_delays_learn.py", "--output", tmp_path)
    rows = re.findall(
        r"^  (by gradient|with regrowth) +([\d.]+%?) +([\d.]+)", printed, re.M
    )
    ways = ["by gradient", "with regrowth"]
    assert [way for way, *_ in rows] == 2 * ways
    found = [int(row[1]) for row in rows[:2]]
    assert found[0] < 16 and found[1] >= 30
    for _, accuracy, values in rows[2:]:
        # Six activities: by chance a sixth.
        assert float(accuracy.rstrip("%")) > 40
        # Six raw channels and 32 more, of at most 64 steps each.
        assert 0 < float(values) <= 38 * 64
    picture = tmp_path / "what_delays_learn.png"
    assert picture.stat().st_size > 10_000


@on("torch")
def test_keyword_to_microcontroller(tmp_path):
    printed = run_fast("keyword_to_microcontroller.py", "--output", tmp_path)
    rows = re.findall(
        r"^(Keras|LiteRT|TFLite Micro), (.+?) +([\d.]+)% +([\d.]+)%(.*)$",
        printed,
        re.M,
    )
    assert [f"{runtime}, {what}" for runtime, what, *_ in rows] == [
        "Keras, whole clips",
        "LiteRT, float32",
        "TFLite Micro, float32",
        "LiteRT, mixed",
        "TFLite Micro, mixed",
    ]
    # 24 clips: none may get another answer in float, and two in mixed.
    assert [float(row[3]) for row in rows[:3]] == [0, 0, 0]
    assert all(float(row[3]) < 9 for row in rows[3:])
    sizes = [int(row[4].split()[0].replace(",", "")) for row in rows[1:]]
    assert sizes[0] == sizes[1] > 2 * sizes[2] == 2 * sizes[3]
    assert (tmp_path / "bundle" / "self_test.c").is_file()
    picture = tmp_path / "keyword_to_microcontroller.png"
    assert picture.stat().st_size > 10_000


@on("torch")
def test_smaller(tmp_path):
    printed = run_fast("smaller.py", "--output", tmp_path)
    rows = re.findall(
        r"^(\S.+), (float32|mixed) +[\d.]+%((?: +[\d,]+){4})$", printed, re.M
    )
    assert [(name, precision) for name, precision, _ in rows] == [
        ("as trained", "float32"),
        ("as trained", "mixed"),
        ("half the channels", "mixed"),
        ("80 % zeros", "mixed"),
        ("16 values", "mixed"),
        ("trained in eight bits", "mixed"),
    ]
    file, compressed, states, arena = zip(
        *([int(n.replace(",", "")) for n in row[2].split()] for row in rows),
        strict=True,
    )
    assert file[0] > 2 * file[1] > 3 * file[2] > 3 * file[5]
    assert compressed[1] > 2 * compressed[2] > 2.5 * compressed[3]
    assert compressed[3] > compressed[4] > compressed[5]
    # Half the channels, at most as long.
    assert states[0] > 3 * states[1] > 5 * states[2] == 5 * states[5]
    assert arena[1] > arena[2] == arena[3] > arena[5]
    picture = tmp_path / "smaller.png"
    assert picture.stat().st_size > 10_000
