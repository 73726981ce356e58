import os
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from torch import nn

from edgedistill.config.data import MelConfig
from edgedistill.config.schema import Config
from edgedistill.data.mel import LogMel, frames_of, mel_filters
from edgedistill.data.preprocess import Preprocess, preprocessors
from edgedistill.data.settings import Normalization, ViewSettings, model_inputs, view_settings
from edgedistill.errors import ConfigError
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.run import run_onnx
from edgedistill.models.build import build_model
from edgedistill.models.interface import interface_of
from edgedistill.records.stages import DataRecord
from tests.support.learning import config_of, data_of, loaded, only
from tests.support.learning import model as model_of

DATA = Path(os.environ.get("EDGEDISTILL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
MEL = MelConfig(rate=8000, window_ms=32, hop_ms=16, bins=40)


def data_config(folder: Path, **data: object) -> Config:
    table = {"train": "train.npz", "test": "train.npz"} | data
    return config_of(folder, data=table, student={"model": "zoo:ds-cnn"})


def waveforms(length: int) -> DataRecord:
    return data_of("signal", (length,), ("no", "yes"), dtype="int16")


def views(
    mel: MelConfig | None = None, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> ViewSettings:
    return ViewSettings(seed=0, augment=(), mel=mel, inputs={"input": Normalization(mean=mean, std=std)})


def preprocess(data: DataRecord, settings: ViewSettings) -> Preprocess:
    return only(preprocessors(data, settings))


def chirp(length: int = 4000) -> np.ndarray:
    time = np.arange(length) / 8000
    noise = np.random.default_rng(0).normal(size=length)
    return (8000 * scipy.signal.chirp(time, 100, time[-1], 3900) + 30 * noise).astype(np.int16)


def reference(waveform: np.ndarray, mel: MelConfig) -> np.ndarray:
    """The same picture by scipy's transform, and by triangles interpolated between the centres."""
    window = scipy.signal.get_window("hann", mel.window, fftbins=True)
    transform = scipy.signal.ShortTimeFFT(window, mel.hop, mel.rate, scale_to=None, phase_shift=None)
    first = -(-(mel.window // 2) // mel.hop)
    frames = 1 + (len(waveform) - mel.window) // mel.hop
    offset = first * mel.hop - mel.window // 2  # its windows are centred on multiples of the hop
    padded = np.concatenate([np.zeros(offset), waveform / 32768])
    power = np.abs(transform.stft(padded, p0=first, p1=first + frames)) ** 2
    edges = np.interp(
        np.linspace(*np.interp([mel.low_hz, mel.top_hz], HERTZ, MELS), mel.bins + 2), MELS, HERTZ
    )  # the scale's inverse, read off a table
    filters = np.stack([np.interp(transform.f, edges[i : i + 3], [0, 1, 0]) for i in range(mel.bins)])
    return np.log(filters @ power + 1e-6).T


HERTZ = np.linspace(0, 8000, 800_001)
MELS = 1127.0104 * np.log1p(HERTZ / 700)  # 2595 * log10 in natural logarithms


@pytest.mark.parametrize(
    "mel",
    [
        MEL,
        MelConfig(rate=16000, window_ms=25, hop_ms=10, bins=64),
        MelConfig(rate=8000, window_ms=31.5, hop_ms=10, bins=20, low_hz=100, high_hz=3500),
    ],
)
def test_the_picture_is_that_of_scipy(mel: MelConfig) -> None:
    waveform = chirp()
    data, config = waveforms(4000), views(mel)
    got = preprocess(data, config)(torch.from_numpy(waveform)[None])
    assert got.shape == (1, 1, frames_of(4000, mel), mel.bins)
    assert model_inputs(data, config)[0].shape == (frames_of(4000, mel), mel.bins, 1)
    np.testing.assert_allclose(got[0, 0].numpy(), reference(waveform, mel), atol=2e-3)


def test_filters_are_centred_on_htks_scale() -> None:
    # 40 filters from 20 Hz to 4 kHz: centres in mel are evenly spaced between mel(20) = 31.75 and mel(4000) = 2146.06.
    filters = mel_filters(MelConfig(rate=8000, window_ms=1000, bins=40))
    centres = filters.argmax(1)  # lines are 1 Hz apart
    spacing = np.diff(2595 * np.log10(1 + centres / 700))
    np.testing.assert_allclose(spacing, (2146.06 - 31.75) / 41, atol=3.2)
    assert (centres[0], centres[-1]) == (
        54,
        3790,
    )  # by hand: 700 * (10 ** (83.32 / 2595) - 1) = 53.7, and 3789.8 from 2094.49
    assert filters.max(1).min() > 0.98


def test_silence_is_the_floor_and_a_tone_is_in_its_bin() -> None:
    data, config = waveforms(2048), views(MEL)
    prepare = preprocess(data, config)
    np.testing.assert_allclose(prepare(torch.zeros(1, 2048, dtype=torch.int16)).numpy(), np.log(1e-6), rtol=1e-6)
    tone = (16384 * np.sin(2 * np.pi * 1000 * np.arange(2048) / 8000)).astype(np.int16)
    picture = prepare(torch.from_numpy(tone)[None])[0, 0]
    assert set(picture.argmax(1).tolist()) == {int(mel_filters(MEL)[:, 32].argmax())}  # 1000 Hz is line 32


def test_mean_and_std_are_of_the_picture_and_floats_are_not_divided() -> None:
    data, config = waveforms(4000), views(MEL)
    normed = views(MEL, (-3.0,), (2.0,))
    waveform = torch.from_numpy(chirp())[None]
    plain = preprocess(data, config)(waveform)
    np.testing.assert_allclose(preprocess(data, normed)(waveform), (plain + 3) / 2, rtol=1e-6)
    floats = preprocess(data_of("signal", (4000,), ("no", "yes")), config)
    np.testing.assert_array_equal(floats(waveform / 32768), plain)


def test_int16_without_a_front_end_is_divided_by_full_scale() -> None:
    prepare = preprocess(waveforms(3), views(None, (0.5,), (2.0,)))
    got = prepare(torch.tensor([[-32768, 0, 16384]], dtype=torch.int16))
    np.testing.assert_allclose(got.numpy(), [[[-0.75, -0.25, 0.0]]])


def test_the_zoo_takes_waveforms_as_pictures(tmp_path: Path) -> None:
    inputs = np.stack([np.roll(chirp(), i) for i in range(20)])
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=np.arange(20) % 2)
    config = data_config(tmp_path, mel=MEL.model_dump(exclude={"high_hz"}), augment=["shift:100", "noise:20"])
    record = loaded(config).record
    (one,) = record.inputs
    assert (one.kind, one.dtype, one.shape, one.vocabulary) == ("signal", "int16", (4000,), None)
    assert model_inputs(record, view_settings(config))[0].kind == "image"


def test_what_the_front_end_cannot_take_is_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "train.npz", inputs=np.eye(20, 400, dtype=np.float32).reshape(20, 200, 2), labels=np.arange(20) % 2
    )
    with pytest.raises(ConfigError, match=r"data\.mel: only applies to waveforms \(N, T\) of one channel"):
        loaded(data_config(tmp_path, mel={"rate": 8000}))
    np.savez(tmp_path / "train.npz", inputs=np.eye(20, 200, dtype=np.int16), labels=np.arange(20) % 2)
    with pytest.raises(ConfigError, match=r"data\.mel: a window is 256 samples, but waveforms have only 200"):
        loaded(data_config(tmp_path, mel={"rate": 8000}))
    with pytest.raises(ConfigError, match=r"data\.mel: filters from 20\.0 to 5000\.0 Hz"):
        data_config(tmp_path, mel={"rate": 8000, "high_hz": 5000})
    with pytest.raises(ConfigError, match=r"unknown key 'data\.mel\.bin'.*'bins'"):
        data_config(tmp_path, mel={"rate": 8000, "bin": 5})
    with pytest.raises(ConfigError, match=r"between the lines of the spectrum, 125\.0 Hz apart"):
        LogMel(MelConfig(rate=8000, window_ms=8, bins=40))


@pytest.mark.skipif(not (DATA / "fsdd" / "fsdd.npz").exists(), reason="no fsdd/fsdd.npz in EDGEDISTILL_DATA")
def test_baked_into_onnx_raw_speech_gives_torchs_answers() -> None:
    with np.load(DATA / "fsdd" / "fsdd.npz") as archive:
        audio, offsets = archive["audio"], archive["offsets"]
    speech = np.zeros((40, 8000), np.int16)
    for row, clip in enumerate(range(0, 3000, 75)):
        samples = audio[offsets[clip] : offsets[clip + 1]][:8000]
        speech[row, : len(samples)] = samples
    data, config = waveforms(8000), views(MEL, (-6.0,), (4.0,))
    model = build_model(model_of("zoo:ds-cnn", 0.25), interface_of(data, config), 0)
    whole = nn.Sequential(preprocess(data, config), model).eval()
    exported = export_onnx(whole, (torch.from_numpy(speech[:1]),), 20)
    (got,) = run_onnx(exported.SerializeToString(), {"input": speech[:, None]}).values()
    with torch.no_grad():
        expected = whole(torch.from_numpy(speech)).numpy()
    np.testing.assert_allclose(got[:, 0], expected, atol=2e-5)
    assert exported.graph.input[0].type.tensor_type.elem_type == 5  # int16
