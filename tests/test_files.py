"""Files: what one backend saves, every other loads, now and later.

`tests/golden` holds one file a backend. They are the format: a change that
cannot load them needs a migration. After one,
`KERAS_BACKEND=jax python tests/test_files.py` writes that of one backend anew.
"""

import ast
import importlib
import inspect
import io
import json
import pathlib
import pkgutil
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops

import keras_mgrade
from arguments import ARGUMENTS, parameters
from keras_mgrade import (
    DelayConv1D,
    MGrade,
    MinGRU,
    TemporalPooling,
)
from tolerances import OTHER_BACKEND, assert_close

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
BACKENDS = ("tensorflow", "jax", "torch")


def golden_model(batch_size=None, **flags):
    """Every layer, every interpolation and normalisation, and a skip."""
    x = keras.Input(batch_shape=(batch_size, None, 3), name="x")
    h = MinGRU(3, return_sequences=True, name="gru", **flags)(x) + x
    h = DelayConv1D(2, 4, name="linear", **flags)(h)
    h = DelayConv1D(2, 4, "integer", use_bias=False, name="integer", **flags)(h)
    h = DelayConv1D(
        2, 4, "gaussian", train_width=True, name="gaussian", **flags
    )(h)
    h = MGrade(4, 2, 4, recurrence_dense=True, name="block", **flags)(h)
    h = MGrade(
        4, 2, 4, normalization="batch", dropout=0.5, name="folds", **flags
    )(h)
    pools = [
        TemporalPooling("last", name="last")(h),
        TemporalPooling("mean", name="mean")(h),
        TemporalPooling("exponential", time_constant=3.0, name="exp")(h),
    ]
    return keras.Model(x, pools, name="golden")


def scramble(model, rng):
    """No weight keeps a value that hides it; delays stay in their span."""
    for weight in model.weights:
        if "seed" in weight.path:
            continue
        value = rng.normal(size=weight.shape, scale=0.5)
        if weight.name in ("moving_variance", "width"):
            value = 0.5 + np.abs(value)
        if weight.name == "delays":
            value = rng.uniform(size=weight.shape)
            value = np.round(4 * value) / 4 if not weight.trainable else value
        weight.assign(value)


def outputs(model, x):
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x))]


def write_golden():
    rng = np.random.default_rng(0)
    model = golden_model()
    scramble(model, rng)
    x = rng.normal(size=(2, 9, 3)).astype("float32")
    path = GOLDEN / keras.backend.backend()
    model.save(path.with_suffix(".keras"))
    # Keras does not compress, and HDF5 is mostly padding: a fifth is left.
    with zipfile.ZipFile(path.with_suffix(".keras")) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(
        path.with_suffix(".keras"), "w", zipfile.ZIP_DEFLATED
    ) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    ys = {f"y{i}": y for i, y in enumerate(outputs(model, x))}
    np.savez(path.with_suffix(".npz"), x=x, **ys)


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_of_every_backend_load_here(backend):
    path = GOLDEN / f"{backend}.keras"
    assert path.stat().st_size < 60_000
    model = keras.saving.load_model(path)
    with np.load(path.with_suffix(".npz")) as arrays:
        x, *expected = arrays.values()
    for y, truth in zip(outputs(model, x), expected, strict=True):
        assert_close(y, truth, OTHER_BACKEND)


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_every_backend_load_here(backend, stateful, tmp_path):
    """A `.keras` file holds a `.weights.h5` file. States are in neither, so
    that of a plain model is that of a stateful one too."""
    path = GOLDEN / f"{backend}.keras"
    with zipfile.ZipFile(path) as archive:
        archive.extract("model.weights.h5", tmp_path)
    model = golden_model(batch_size=2, stateful=stateful)
    model.load_weights(tmp_path / "model.weights.h5")
    with np.load(path.with_suffix(".npz")) as arrays:
        x, *expected = arrays.values()
    for y, truth in zip(outputs(model, x), expected, strict=True):
        assert_close(y, truth, OTHER_BACKEND)
    moved = np.abs(outputs(model, x)[1] - expected[1]).max() > 1e-3
    assert moved == stateful


def norms(names, count):
    return {f"{name}/vars/{i}": (4,) for name in names for i in range(count)}


def dense(name, rows, columns):
    return {f"{name}/vars/0": (rows, columns), f"{name}/vars/1": (columns,)}


BLOCK = {
    "convolution/vars/delays": (2, 4),
    "convolution/vars/kernel": (2, 4),
    **dense("mlp_expansion", 4, 8),
    **dense("mlp_projection", 8, 4),
    **dense("recurrence/cell", 4, 8),
}
# Taps are stored by name, everything else by position as Keras does: kernel,
# bias; scale, offset, mean and variance of a normalisation.
FORMAT = {
    "delay_conv1d": {
        "vars/bias": (3,),
        "vars/delays": (2, 3),
        "vars/kernel": (2, 3),
    },
    "delay_conv1d_1": {"vars/delays": (2, 3), "vars/kernel": (2, 3)},
    "delay_conv1d_2": {
        "vars/bias": (3,),
        "vars/delays": (2, 3),
        "vars/kernel": (2, 3),
        "vars/width": (2, 3),
    },
    "m_grade": {
        **BLOCK,
        **dense("encoder", 3, 4),
        **dense("recurrence_projection", 4, 4),
        **norms(("mlp_normalization", "output_normalization"), 2),
    },
    "m_grade_1": {
        **BLOCK,
        **norms(("convolution_normalization", "mlp_normalization"), 4),
    },
    "min_gru": dense("cell", 3, 6),
}


def stored(path):
    """Every array in a `.keras` file: path and shape."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item.shape

    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r") as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("backend", (*BACKENDS, "this one"))
def test_names_and_shapes_in_a_file(backend, tmp_path):
    path = GOLDEN / f"{backend}.keras"
    if backend == "this one":
        path = tmp_path / "model.keras"
        golden_model().save(path)
    assert stored(path) == {
        f"layers/{layer}/{name}": shape
        for layer, arrays in FORMAT.items()
        for name, shape in arrays.items()
    }


def test_names_of_the_weights():
    model = golden_model()
    names = {w.path.removeprefix("golden/") for w in model.weights}
    assert {"gru/min_gru_cell/kernel", "gru/min_gru_cell/bias"} <= names
    taps = {f"gaussian/{n}" for n in ("kernel", "delays", "width", "bias")}
    assert taps == {name for name in names if name.startswith("gaussian/")}


@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
def test_round_trip(ending, rng, tmp_path):
    model, path = golden_model(), tmp_path / f"model.{ending}"
    scramble(model, rng)
    x = rng.normal(size=(2, 9, 3)).astype("float32")
    if ending == "keras":
        model.save(path)
        loaded = keras.saving.load_model(path)
        configs = [json.dumps(m.get_config()) for m in (loaded, model)]
        assert configs[0] == configs[1]
    else:
        model.save_weights(path)
        loaded = golden_model()
        loaded.load_weights(path)
    pairs = zip(outputs(loaded, x), outputs(model, x), strict=True)
    for actual, expected in pairs:
        np.testing.assert_array_equal(actual, expected)


def taps_in_a_model(**arguments):
    layer = DelayConv1D(2, 4, **arguments)
    return layer, keras.Sequential([keras.Input((None, 3)), layer])


def test_trained_taps_load_into_a_layer_of_whole_delays(rng, tmp_path):
    trained, model = taps_in_a_model()
    scramble(model, rng)
    trained.set_delays([[0, 1, 2], [3, 4, 4]])
    model.save_weights(tmp_path / "model.weights.h5")
    whole, other = taps_in_a_model(interpolation="integer")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(whole.delays, trained.delays)
    x = rng.normal(size=(1, 6, 3)).astype("float32")
    assert_close(outputs(other, x)[0], outputs(model, x)[0], OTHER_BACKEND)


def test_weights_that_a_layer_does_not_have_are_refused(tmp_path):
    _, model = taps_in_a_model()
    model.save_weights(tmp_path / "model.weights.h5")
    _, other = taps_in_a_model(use_bias=False)
    message = r"has weights \['delays', 'kernel'\].* Received: names="
    with pytest.raises(ValueError, match=message):
        other.load_weights(tmp_path / "model.weights.h5")


# Each is all that is left of a layer without the other.
FIXED = {MGrade: {"use_convolution", "use_recurrence"}}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_the_configuration_holds_every_argument(kind):
    given = ARGUMENTS[kind]
    signature = parameters(kind)
    assert set(given) | FIXED.get(kind, set()) == set(signature)
    config, default = kind(**given).get_config(), {}
    if kind is not TemporalPooling:
        required = [n for n, p in signature.items() if p.default is p.empty]
        default = kind(**{n: given[n] for n in required}).get_config()
    for name in signature:
        assert name in config
        if (
            name in default
            and signature[name].default is not inspect.Parameter.empty
        ):
            assert (config[name] != default[name]) == (name in given)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_the_configuration_makes_the_same_object(kind):
    config = keras.saving.serialize_keras_object(kind(**ARGUMENTS[kind]))
    text = json.dumps(config)
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is kind
    assert json.dumps(keras.saving.serialize_keras_object(again)) == text
    direct = kind.from_config(kind(**ARGUMENTS[kind]).get_config())
    assert type(direct) is kind


@pytest.mark.parametrize("switch", ["use_convolution", "use_recurrence"])
def test_the_paper_ablations_survive_a_configuration(switch):
    config = MGrade(4, 2, 5, **{switch: False}).get_config()
    assert MGrade.from_config(config).get_config()[switch] is False


def documented():
    """Every public function and class of the package that lists arguments."""
    modules = pkgutil.walk_packages(keras_mgrade.__path__, "keras_mgrade.")
    for module in modules:
        if ".export" in module.name or ".kernels." in module.name:
            continue
        module = importlib.import_module(module.name)
        for name, value in vars(module).items():
            if (
                getattr(value, "__module__", None) == module.__name__
                and not name.startswith("_")
                and "\nArgs:\n" in (inspect.getdoc(value) or "")
            ):
                yield value


@pytest.mark.parametrize("item", list(documented()), ids=lambda v: v.__name__)
def test_documented_arguments_and_defaults_are_those_of_the_signature(item):
    section = inspect.getdoc(item).split("\nArgs:\n")[1]
    section = re.split(r"\n\S", section)[0]
    entries = re.findall(
        r"^    (\w+): ((?:.|\n(?!    \S))*)", section, re.MULTILINE
    )
    signature = parameters(item)
    assert [name for name, _ in entries] == list(signature)
    for name, text in entries:
        default = signature[name].default
        stated = re.findall(r"Defaults\s+to\s+`([^`]+)`", text)
        if default is inspect.Parameter.empty:
            assert stated == []
        else:
            assert [ast.literal_eval(value) for value in stated] == [default]


if __name__ == "__main__":
    write_golden()
