"""Settings, data and interfaces of small learning problems, made from a configuration or from a few words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedistill.config.load import parse_config
from edgedistill.config.model_spec import parse_model_spec
from edgedistill.config.schema import Config
from edgedistill.data.dataset import Dataset, check_mel, check_views, load_dataset
from edgedistill.data.settings import check_input_names, data_settings, view_settings
from edgedistill.kits.kits import find_kits
from edgedistill.models.interface import Interface
from edgedistill.models.source import ModelSource
from edgedistill.pipeline.checks import check_config, check_learning
from edgedistill.records.stages import DataRecord, InputRecord, StageRecord
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.user_code import code_ref
from edgedistill.stages.stage import Records, Sources


def config_of(folder: Path, **tables: Any) -> Config:
    """Return a configuration in `folder`: a few tables that fit most tests, each replaced by the one that is given."""
    table = {
        "name": "test", "data": {"train": "train.npz", "test": "test.npz"}, "teacher": {"model": "zoo:resnet20"},
        "student": {"model": "zoo:mlperf-resnet8"}, "target": [{"name": "pc", "kit": "openvino"}],
    }  # fmt: skip
    return parse_config(table | tables, folder, "test.toml")


def sources_of(config: Config, *records: StageRecord, hash_file: Any = sha256_of) -> Sources:
    """Return what settings are declared from, with the records of stages that are taken to be done."""
    return Sources(config, find_kits(()), Records({record.stage: record for record in records}), hash_file)


def loaded(config: Config) -> Dataset:
    """Load the data of a configuration and check its views, as a run does before it writes anything."""
    settings = data_settings(sources_of(config))
    dataset = load_dataset(settings)
    check_input_names(config, dataset.record)
    check_views(view_settings(config), dataset.record)
    check_mel(settings, view_settings(config), dataset.record)
    return dataset


def checked(config: Config) -> None:
    """Check all that a run checks before it writes anything."""
    check_config(config, find_kits(()))
    check_learning(sources_of(config))


def data_of(kind: str, shape: tuple[int, ...], classes: int | tuple[str, ...] = 10, **fields: Any) -> DataRecord:
    """Describe data of one input; `dtype` and `vocabulary` are the input's, other fields the data's."""
    keys = {"dtype": "float32", "vocabulary": None} | fields
    one = InputRecord(kind=kind, shape=shape, dtype=keys.pop("dtype"), vocabulary=keys.pop("vocabulary"))
    names = classes if isinstance(classes, tuple) else tuple(map(str, range(classes)))
    counts = {"train": 1, "val": 1, "test": 1, "fingerprint": ""}
    return DataRecord(inputs=(one,), classes=names, **counts | keys)


def interface(
    kind: str, shape: tuple[int, ...], classes: int = 10, vocabulary: int | None = None, task: str = "classification"
) -> Interface:
    """Return what a model of one input takes and gives."""
    one = InputRecord(kind=kind, dtype="float32", shape=shape, vocabulary=vocabulary)
    return Interface(inputs=(one,), values=classes, task=task)


def several(values: int = 10, output: str | None = None, **inputs: tuple[str, tuple[int, ...]]) -> Interface:
    """Return what a model of several inputs takes and gives, each input by its kind and shape."""
    made = (InputRecord(name=name, kind=kind, dtype="float32", shape=shape) for name, (kind, shape) in inputs.items())
    return Interface(inputs=tuple(made), values=values, output=output)


def model(text: str, width: float = 1.0, depth: float = 1.0, folder: Path | None = None) -> ModelSource:
    """Return where a model of a name comes from; a function of the user's lies in `folder`."""
    spec = parse_model_spec(text)
    code = code_ref(spec.name, folder or Path()) if spec.source == "function" else None
    return ModelSource(spec=spec, width=width, depth=depth, code=code)


def only(tensors: Mapping[str, Any]) -> Any:
    """Return the single value of a table of inputs or outputs."""
    (value,) = tensors.values()
    return value
