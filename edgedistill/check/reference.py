"""Answer picture files and texts as in training: decoded, resized and tokenized by the code of training, with the torch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from edgedistill.config.encoder import CONFIG, WEIGHTS
from edgedistill.config.model_spec import parse_model_spec
from edgedistill.data.geometry import Resizing
from edgedistill.data.images import decode_image, open_image
from edgedistill.data.preprocess import preprocessors
from edgedistill.data.settings import ViewSettings
from edgedistill.data.sources import Array, Arrays
from edgedistill.data.text import TextSettings, tokenize
from edgedistill.distill.loading import load_student
from edgedistill.distill.predictors import split_outputs, torch_predictor
from edgedistill.errors import ConfigError
from edgedistill.export.baked import Baking
from edgedistill.losses.batch import Tensors
from edgedistill.models.interface import interface_of
from edgedistill.models.outputs import labelled_names
from edgedistill.models.source import StudentSource
from edgedistill.records.contract import Contract, PictureRules
from edgedistill.records.stages import DataRecord, ExportRecord, OnnxModel, StudentRecord
from edgedistill.runtime.files import hash_of, sha256_of
from edgedistill.runtime.folder import Run, read_settings, require_record, require_unchanged
from edgedistill.runtime.hub import hub_folder
from edgedistill.runtime.user_code import code_ref
from edgedistill.tasks.table import find_task

MODES = {"rgb": "RGB", "grey": "L"}


class Pass(NamedTuple):
    """What a model made of a picture or a text: its request, its outputs (1, ...) by name, and the answer.

    The request is (1, ...), of texts the inputs below each other (inputs, tokens), int64. The answer is the probabilities (C,) or values (D,), the mask (H, W) of the input, or detections (K, 6): class, score, and
    corners in pixels of the picture.
    """

    request: Array
    outputs: Arrays
    answer: Array


class Reference:
    """The float student of a run in torch; `code` is the folder of the user's modules."""

    def __init__(self, run: Run, model: OnnxModel, code: Path) -> None:
        assert model.contract is not None
        self.contract, settings = model.contract, read_settings(run, ExportRecord)
        self.data, self.task = require_record(run, DataRecord), find_task(model.contract.task)
        self.views = ViewSettings.model_validate(settings["views"])
        self.interface = interface_of(self.data, self.views)
        self._baking = Baking(self.data, self.views, tuple(settings["export"]["bake"]))
        self._prepare = preprocessors(self.data, self.views)[self.contract.input]
        source = StudentSource.model_validate(_with_files(settings["student"], code))
        weights = require_unchanged(run, require_record(run, StudentRecord).student.file, StudentRecord.stage)
        student = load_student(source, self.interface, self.views.seed, weights)
        self._predict = torch_predictor(self.task.exported(student, self._size).eval(), "fp32")

    @property
    def _size(self) -> tuple[int, ...]:
        return self.interface.kind.spatial(self.interface.first.shape)

    def answer(self, file: Path) -> Pass:
        """Answer a picture file."""
        rules = rules_of(self.contract)
        pixels = decode_image(file, resizing_of(rules), MODES[rules.colour])
        if pixels.shape[:2] != (rules.height, rules.width):
            raise ConfigError(
                f"{file}: is {pixels.shape[1]}x{pixels.shape[0]}, the model takes {rules.width}x{rules.height}, and the run has no "
                "data.size that says how pictures are resized"
            )
        prepared = self._prepare(torch.from_numpy(np.array(pixels[None])))
        request = pixels[None] if self._baking.normalizes else prepared.numpy()
        outputs, found = self._answers({self.contract.input: prepared})
        if self.contract.detection:
            found = moved_to_picture(found, self.contract, open_image(file, "RGB").size)
        return Pass(request, outputs, found)

    def answer_text(self, texts: tuple[str, ...], settings: TextSettings) -> Pass:
        """Answer a text, or a pair of texts."""
        tokens = tokenize([texts], settings).inputs
        inputs = {one.name: tokens[one.name].astype(np.int64) for one in self.data.inputs}
        outputs, found = self._answers({name: torch.from_numpy(values) for name, values in inputs.items()})
        return Pass(np.concatenate(list(inputs.values())), outputs, found)

    def _answers(self, inputs: Tensors) -> tuple[Arrays, Array]:
        """Return the outputs (1, ...) of the exported model, and the answer."""
        raw = self._predict(inputs)
        wanted = self.task.exported_output or self.data.output
        labelled = labelled_names(tuple(raw), wanted)
        outputs = self._baking.expected({name: value.numpy() for name, value in raw.items()}, labelled[0])
        answers = self.task.answers(split_outputs(raw, wanted).main.numpy(), self._size, self.interface.values)
        return outputs, self.task.scores(answers)[0]


def rules_of(contract: Contract) -> PictureRules:
    """Return the rules for pictures; raises ConfigError for a model that takes none."""
    if contract.picture is None:
        raise ConfigError(f"check: the model takes no picture files: {contract.reason}")
    return contract.picture


def resizing_of(rules: PictureRules) -> Resizing | None:
    """Return how pictures are resized, or None if they have the size of the input."""
    return None if rules.rule is None else Resizing(rules.width, rules.height, rules.rule, rules.padding)


def moved_to_picture(found: Array, contract: Contract, size: tuple[int, int]) -> Array:
    """Return detections (K, 6) in pixels of the input in those of the picture, clipped to it; unused rows are left out."""
    kept = found[found[:, 0] >= 0].astype(np.float64)
    resizing = resizing_of(rules_of(contract))
    if resizing is not None:
        kept[:, 2:] = resizing.place(*size).to_picture(kept[:, 2:])
    kept[:, 2:] = np.clip(kept[:, 2:], 0, size * 2)
    return kept


def _with_files(table: Any, folder: Path) -> Any:
    """Return the settings of a model with the places of its code and files; raises ConfigError if the code or an encoder has changed."""
    if not isinstance(table, dict):
        return table
    if table.keys() >= {"spec", "sha256"}:
        found = code_ref(table["spec"], folder)
        if found.sha256 != table["sha256"]:
            raise ConfigError(
                f"check: the code of '{table['spec']}' in {folder} is not that of the run; name its folder with --code, or run again"
            )
        return table | {"folder": folder}
    if table.keys() == {"sha256", "name"}:
        return table | {"path": folder / table["name"].removeprefix("hf:")}
    filled: dict[str, Any] = {key: _with_files(value, folder) for key, value in table.items()}
    if filled.get("encoder") is not None:
        filled["encoder"] |= {"path": _encoder_folder(filled["spec"], filled["encoder"]["sha256"], folder)}
    return filled


def _encoder_folder(spec: str, sha256: str, folder: Path) -> Path:
    """Return the folder of a model hf:FOLDER; raises ConfigError if it is not the one of the run."""
    found = parse_model_spec(spec)
    path = folder / found.name if found.hub is None else hub_folder(*found.hub)
    files = [path / CONFIG, path / WEIGHTS]
    if not all(file.is_file() for file in files) or hash_of([sha256_of(file) for file in files]) != sha256:
        raise ConfigError(
            f"check: {path} is not the folder '{spec}' of the run; name the folder of its configuration with --code, or run again"
        )
    return path
