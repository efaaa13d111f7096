"""What measures is tested too: a benchmark nobody checks says what it likes."""

import json
import time

import numpy as np
import pytest
from keras import ops

import speed_operations
import speed_table
import timing


def test_a_race_times_what_runs_and_says_what_does_not():
    def broken():
        raise RuntimeError("no such kernel\nand much more")

    results = timing.race(
        {
            "slow": lambda: time.sleep(0.02),
            "slower": lambda: time.sleep(0.06),
            "broken": broken,
        },
        rounds=3,
    )
    assert list(results) == ["slow", "slower", "broken"]
    assert 20 <= results["slow"]["ms"] < results["slower"]["ms"]
    assert results["slow"]["rounds"] == 3
    assert results["broken"] == {"error": "RuntimeError: no such kernel"}


def test_a_call_may_find_its_arrays_in_memory():
    calls = []
    timing.race({"one": lambda: calls.append(0)}, 3, from_memory=True)
    # Two to warm up, then one a round: nothing brings the arrays back first.
    assert len(calls) == 2 + 3
    calls.clear()
    timing.race({"one": lambda: calls.append(0)}, 1)
    assert len(calls) > 100


@pytest.mark.parametrize("compiled", sorted(set(timing.modes().values())))
def test_forward_and_backward_are_run(rng, compiled):
    x, w = (rng.normal(size=(3, 4)).astype("float32") for _ in range(2))
    run = timing.forward_backward(
        lambda x, w: ops.square(x) * w, [x, w], compiled
    )
    y, (d_x, d_w) = run()
    for value, expected in ((y, x * x * w), (d_x, x * w), (d_w, x * x / 2)):
        np.testing.assert_allclose(
            ops.convert_to_numpy(value), expected, rtol=1e-5
        )


def test_log_space_is_the_same_recurrence(rng):
    a, b = (rng.uniform(0.2, 1, (2, 20, 3)).astype("float32") for _ in "ab")
    for peer in (speed_operations.log_space, speed_operations.associative_scan):
        y = peer(ops.convert_to_tensor(a), ops.convert_to_tensor(b))
        h = np.zeros((2, 3))
        for t in range(20):
            h = a[:, t] * h + b[:, t]
        np.testing.assert_allclose(ops.convert_to_numpy(y)[:, -1], h, rtol=1e-4)


def row(part, name, mode, ms):
    return {
        "process": [part, mode.split()[0]],
        "part": part,
        "name": name,
        "mode": mode,
        "ms": ms,
    }


def test_ratios_are_held_against_their_targets(tmp_path):
    graph, compiled = "tensorflow graph", "tensorflow compiled"
    rows = [
        row("recurrence", "eight arrays moved", compiled, 2.0),
        row("recurrence", "keras_mgrade", compiled, 8.0),
        row("recurrence", "keras.ops.associative_scan", graph, 80.0),
        {
            **row("recurrence", "keras.ops.associative_scan", compiled, 0),
            "error": "does not compile",
        },
    ]
    del rows[-1]["ms"]
    results = {"machine": "a machine", "versions": {"keras": "3"}, "rows": rows}
    speed_table.write(results, tmp_path / "speed")
    text = (tmp_path / "speed.md").read_text()
    ratios = [line for line in text.splitlines() if "compiled | " in line]
    assert any(" 4 | at most 3.5 **missed**" in line for line in ratios)
    # A peer counts with the faster of its two ways.
    assert any(" 10 | at least 8 |" in line for line in ratios)
    assert "| keras.ops.associative_scan | does not run | 80 |" in text
    assert json.loads((tmp_path / "speed.json").read_text()) == results
    assert (tmp_path / "speed.png").stat().st_size > 5000
