"""The recordings of the keyword tutorial, from a file and from a folder."""

import keras
import numpy as np
import pytest
import scipy.io.wavfile

import keywords

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="NumPy alone; once is enough"
)


@pytest.fixture(scope="module")
def clips():
    with np.load(keywords.SMALL, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_no_speaker_is_in_two_parts(clips):
    train, held_out, test = keywords.load(keywords.SMALL)
    assert [len(part.y) for part in (train, held_out, test)] == [72, 12, 24]
    assert train.x.shape == (72, keywords.FRAMES, keywords.FRAME)
    assert 0.1 < np.abs(train.x).max() <= 1
    assert set(test.y) == set(range(12))
    parts = [
        {s for s in clips["speaker"][clips["split"] == n] if s}
        for n in range(3)
    ]
    assert not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])


def test_a_folder_of_recordings(clips, tmp_path):
    """As the publishers' archive has them; at 8 kHz nothing is resampled."""
    spoken = np.flatnonzero(clips["label"] >= 2)
    paths = {}
    for n in spoken:
        folder = tmp_path / str(clips["class_names"][clips["label"][n]])
        folder.mkdir(exist_ok=True)
        paths[n] = folder / f"{clips['speaker'][n]}_nohash_{n}.wav"
        # One shorter than a second, as some are.
        audio = clips["audio"][n][: 4000 if n == spoken[0] else None]
        scipy.io.wavfile.write(paths[n], keywords.RATE, audio)
    audio, labels, parts = keywords.read(tmp_path)
    order = sorted(spoken, key=lambda n: (clips["label"][n], paths[n]))
    wanted = clips["audio"][order] / 32768.0
    wanted[order.index(spoken[0]), 4000:] = 0
    np.testing.assert_allclose(audio, wanted, atol=1e-6)
    np.testing.assert_array_equal(labels, clips["label"][order])
    np.testing.assert_array_equal(parts, clips["split"][order])


def test_resampled_from_twice_the_rate(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    (tmp_path / "yes").mkdir()
    path = tmp_path / "yes" / "0123abcd_nohash_0.wav"
    scipy.io.wavfile.write(path, 16000, (2**14 * tone).astype("int16"))
    audio, labels, _ = keywords.read(tmp_path)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    # Its filter has nothing to look at before the start and after the end.
    np.testing.assert_allclose(audio[0, 50:-50], wanted[50:-50], atol=2e-3)
    assert list(labels) == [2]


def test_an_empty_folder(tmp_path):
    with pytest.raises(SystemExit, match="'yes'"):
        keywords.load(tmp_path)


def test_bands_show_the_pitch():
    """A tone is loudest in the band nearest to it."""
    model = keywords.make_model()
    front_end = keras.Model(model.input, model.get_layer("bands").output)
    time = np.arange(keywords.FRAME * 2) / keywords.RATE
    tones = [0.1 * np.sin(2 * np.pi * hertz * time) for hertz in (300, 2500)]
    found = front_end.predict(keywords.framed(np.stack(tones)), verbose=0)
    mel = np.linspace(keywords.mels(100.0), keywords.mels(3700.0), 40)
    for heard, hertz in zip(found, (300, 2500), strict=True):
        nearest = np.argmin(np.abs(mel - keywords.mels(hertz)))
        assert abs(heard[0].argmax() - nearest) <= 1
        assert heard[0].max() > heard[0].mean() + 0.5
