"""Delay lines that the program holds: by definition, and the same in C."""

import ctypes
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from keras_mgrade import export
from keras_mgrade.export.rings import Rings

BUNDLE = pathlib.Path(export.__file__).parent / "c"
STEPS = 600
# The longest ring, whose places do not fit a byte, goes around before and
# after the reset.
RESET = 300
LONGEST = 290

TYPES = [("int8", -7), ("int16", 0), ("float32", 0)]
IDS = [dtype for dtype, _ in TYPES]


def random_delays(rng, taps=5, channels=13):
    """With repeated delays, missing taps, and very different channels."""
    longest = rng.integers(1, 40, channels)
    longest[:3] = 1, 2, LONGEST
    delays = rng.integers(0, longest + 1, (taps, channels))
    delays[1, 2] = LONGEST
    delays[3] = delays[2]
    delays[:, 4] = 0
    return delays


def random_values(rng, dtype, count):
    if dtype == "float32":
        return rng.normal(size=count).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, count, dtype, endpoint=True)


@pytest.mark.parametrize("dtype, zero", TYPES, ids=IDS)
def test_a_tap_reads_what_was_written_so_many_steps_ago(dtype, zero, rng):
    delays = random_delays(rng)
    taps, channels = delays.shape
    rings = Rings(delays, dtype, zero)
    written = random_values(rng, dtype, (STEPS, channels))
    for t, newest in enumerate(written):
        expected = np.full(delays.shape, zero, dtype)
        for i, c in np.ndindex(delays.shape):
            if 0 < delays[i, c] <= t:
                expected[i, c] = written[t - delays[i, c], c]
        read = rings.read()
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, expected[None, :, None])
        rings.write(newest[None, None, None])
    rings.reset()
    start = np.full((1, taps, 1, channels), zero, dtype)
    np.testing.assert_array_equal(rings.read(), start)


def test_each_ring_is_as_long_as_the_longest_delay_of_its_channel():
    rings = Rings([[3, 0, 1], [7, 0, 1]], "int16")
    np.testing.assert_array_equal(rings.lengths, [7, 0, 1])
    assert rings.bytes == 2 * (7 + 0 + 1) + 2 * 3


def test_a_line_without_any_tap_reads_zeros():
    rings = Rings(np.zeros((2, 3), int), "int8", -7)
    rings.write(np.ones(3, "int8"))
    np.testing.assert_array_equal(rings.read(), np.full((1, 2, 1, 3), -7))


class Line(ctypes.Structure):
    """`keras_mgrade_rings` of rings.h."""

    _fields_ = [
        ("delays", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("taps", ctypes.c_uint16),
        ("channels", ctypes.c_uint16),
        ("element_size", ctypes.c_uint8),
        ("zero", ctypes.c_int32),
        ("values", ctypes.c_void_p),
        ("heads", ctypes.c_void_p),
    ]


class InC:
    """The same as `Rings`, in C; it begins with memory full of rubbish."""

    def __init__(self, library, delays, dtype, zero):
        self._library, self._shape = library, delays.shape
        lengths = delays.max(axis=0)
        # More than it needs, to see that it leaves the rest alone.
        self._size = int(lengths.sum())
        self._values = np.full(self._size + 8, 85, dtype)
        self._heads = np.full(len(lengths) + 8, 21845, np.uint16)
        self._taps = np.full(delays.size + 8, 85, dtype)
        tables = (delays, lengths)
        self._tables = [np.ascontiguousarray(t, np.uint16) for t in tables]
        self._line = Line(
            *(table.ctypes.data for table in self._tables),
            *delays.shape,
            self._values.itemsize,
            zero,
            self._values.ctypes.data,
            self._heads.ctypes.data,
        )
        self.reset()

    def _call(self, name, *arrays):
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
        function = getattr(self._library, f"keras_mgrade_rings_{name}")
        function(ctypes.byref(self._line), *pointers)
        assert (self._values[self._size :] == 85).all()
        assert (self._heads[-8:] == 21845).all()
        assert (self._taps[-8:] == 85).all()

    def reset(self):
        self._call("reset")

    def read(self):
        self._call("read", self._taps)
        return self._taps[:-8].reshape(self._shape)

    def write(self, values):
        self._call("write", values)


@pytest.fixture(
    scope="module",
    params=[("cc", "-std=c99"), ("c++", "-x", "c++", "-std=c++11")],
    ids=["c", "c++"],
)
def library(request, tmp_path_factory):
    """rings.c as a shared library, compiled as C and as C++."""
    compiler, *options = request.param
    command = shutil.which(compiler)
    if command is None:
        pytest.skip(f"there is no compiler `{compiler}` here")
    path = tmp_path_factory.mktemp("rings") / "rings.so"
    done = subprocess.run(
        [
            *(command, *options, "-O2", "-shared", "-fPIC"),
            *("-Wall", "-Wextra", "-Werror", "-pedantic"),
            *(str(BUNDLE / "rings.c"), "-o", str(path)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("case", ["random", "one tap", "no tap"])
@pytest.mark.parametrize("dtype, zero", TYPES, ids=IDS)
def test_in_c_every_byte_is_the_same(library, dtype, zero, case, rng):
    delays = {
        "random": random_delays(rng),
        "one tap": np.array([[3]]),
        "no tap": np.zeros((2, 3), int),
    }[case]
    rings = Rings(delays, dtype, zero)
    in_c = InC(library, delays, dtype, zero)
    for t in range(STEPS):
        if t == RESET:
            rings.reset()
            in_c.reset()
        assert in_c.read().tobytes() == rings.read().tobytes(), t
        newest = random_values(rng, dtype, delays.shape[1])
        rings.write(newest)
        in_c.write(newest)
