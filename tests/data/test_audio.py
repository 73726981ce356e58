"""WAV folders as waveforms."""

import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.data.audio import read_clip, read_clips, read_header, wav_files
from edgedistill.data.reading import Reading
from edgedistill.data.sources import load_source
from edgedistill.errors import ConfigError
from tests.support.learning import config_of, loaded, only


def write_wav(path: Path, samples: np.ndarray, rate: int = 8000) -> Path:
    """Write PCM of any width: (T,) or (T, channels) of uint8 or int16, or int32 for 24 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width = {"uint8": 1, "int16": 2, "int32": 3}[samples.dtype.name]
    raw = samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3] if width == 3 else samples
    with wave.open(str(path), "wb") as clip:
        clip.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        clip.setsampwidth(width)
        clip.setframerate(rate)
        clip.writeframes(raw.tobytes())
    return path


@settings(deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_sixteen_bits_are_read_as_they_are(tmp_path_factory, values):
    samples = np.array(values, np.int16)
    np.testing.assert_array_equal(read_clip(write_wav(tmp_path_factory.mktemp("w") / "a.wav", samples)), samples)


@settings(deadline=None)
@given(st.lists(st.integers(-(2**23), 2**23 - 1), min_size=1, max_size=50))
def test_of_24_bits_the_upper_sixteen_are_kept(tmp_path_factory, values):
    found = read_clip(write_wav(tmp_path_factory.mktemp("w") / "a.wav", np.array(values, np.int32)))
    np.testing.assert_array_equal(found, np.array(values, np.int32) >> 8)


def test_eight_bits_are_unsigned(tmp_path):
    found = read_clip(write_wav(tmp_path / "a.wav", np.array([0, 128, 255], np.uint8)))
    assert found.tolist() == [-32768, 0, 127 * 256]


def test_channels_are_averaged(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.array([[100, 300], [-5, 5]], np.int16))
    assert read_header(path).channels == 2
    assert read_clip(path).tolist() == [200, 0]


def test_clips_are_cut_and_padded_to_the_seconds_given(tmp_path):
    for name, length in (("no/a.wav", 4000), ("yes/b.WAV", 12000)):
        write_wav(tmp_path / "clips" / name, np.full(length, 7, np.int16))
    with pytest.raises(
        ConfigError, match=r"b\.WAV has 12000 samples, a\.wav has 4000; set data\.seconds .* seconds = 1\.5"
    ):
        load_source("clips", tmp_path)
    source = load_source("clips", tmp_path, Reading(seconds=1.0))
    assert (only(source.inputs).shape, only(source.inputs).dtype) == ((2, 8000), np.int16)
    assert source.classes == ("no", "yes")
    assert source.labels.tolist() == [0, 1]
    assert [int((row == 7).sum()) for row in only(source.inputs)] == [4000, 8000]


def test_rates_are_not_mixed(tmp_path):
    files = [write_wav(tmp_path / f"{rate}.wav", np.zeros(10, np.int16), rate) for rate in (8000, 16000)]
    with pytest.raises(ConfigError, match=r"8000\.wav has 8000 samples per second, 16000\.wav has 16000"):
        read_clips(files[::-1], None, {})


@pytest.mark.parametrize("content", [b"", b"no wave", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x03\0\x01\0" + bytes(20)])
def test_what_is_no_pcm_is_named_with_a_way_out(tmp_path, content):
    path = tmp_path / "yes" / "a.wav"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"yes/a\.wav is not a WAV file of PCM samples: .*ffmpeg"):
        load_source(tmp_path.name, tmp_path.parent)
    assert wav_files(tmp_path) == [path]


def test_all_clips_that_cannot_be_read_are_named_or_left_out(tmp_path):
    files = [write_wav(tmp_path / "set" / "ab"[i % 2] / f"{i}.wav", np.full(400, i, np.int16)) for i in range(8)]
    files[2].write_bytes(b"no wave")
    files[5].write_bytes(files[5].read_bytes()[:-100])
    words = (
        r"2 files are not WAV files of PCM samples: a/2\.wav, b/5\.wav; convert .* or leave them out with --skip-bad$"
    )
    with pytest.raises(ConfigError, match=words):
        load_source("set", tmp_path)
    source = load_source("set", tmp_path, Reading(skip_bad=True))
    assert only(source.inputs)[:, 0].tolist() == [0, 4, 6, 1, 3, 7]
    assert source.left_out[1] == "b/5.wav (it ends after 350 of 400 samples)"


def data(folder: Path, **keys):
    return loaded(config_of(folder, data=keys, student={"model": "zoo:ds-cnn"}))


def test_a_test_set_is_split_off_where_none_is_given(tmp_path):
    labels = np.arange(100) % 4
    np.savez(tmp_path / "all.npz", inputs=np.arange(100 * 64, dtype=np.float32).reshape(100, 64), labels=labels)
    found = data(tmp_path, train="all.npz", test_fraction=0.2, val_fraction=0.25)
    rows = [split.rows.tolist() for split in (found.train, found.val, found.test)]
    assert [len(part) for part in rows] == [60, 20, 20]
    assert sorted(np.concatenate(rows).tolist()) == list(range(100))
    for split in (found.train, found.val, found.test):
        assert split.labels.tolist() == labels[split.rows].tolist()
    assert np.bincount(found.test.labels).tolist() == [5] * 4
    again = data(tmp_path, train="all.npz", test_fraction=0.2, val_fraction=0.5)
    assert again.test.rows.tolist() == rows[2]


def test_the_front_end_hears_at_the_rate_of_the_files(tmp_path):
    for label in ("a", "b"):
        for i in range(8):
            write_wav(tmp_path / "clips" / label / f"{i}.wav", np.full(4000, i, np.int16))
    mel = {"rate": 8000, "bins": 8}
    assert data(tmp_path, train="clips", mel=mel, val_fraction=0.2).record.inputs[0].shape == (4000,)
    with pytest.raises(ConfigError, match=r"data\.mel\.rate: is 16000, but the WAV files have 8000"):
        data(tmp_path, train="clips", mel=mel | {"rate": 16000})
