"""The edge card: a student's files, its origin, and its measurements on each device, sealed with a hash.

History of `edgedistill.card`: version 1 is the first.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from edgedistill.errors import ConfigError
from edgedistill.records.base import Encoding, FileRef, Record, explain_validation
from edgedistill.records.contract import Contract
from edgedistill.records.measurement import Measurement
from edgedistill.records.signature import Signature
from edgedistill.records.stages import DataRecord
from edgedistill.runtime.files import SEAL, seal_of, sha256_of

SCHEMA: Literal["edgedistill.card/1"] = "edgedistill.card/1"

NOT_QUANTIZED: Final = "not quantized"


class CardModel(Record):
    """One model of the student; `file`, and `io` with its recorded inputs and labels, are relative to the card.

    `contract`, `signature` and `preprocessing`, the JSON in the file's metadata, are None in cards of earlier versions.
    """

    precision: str
    encoding: Encoding | None
    opset: int
    file: FileRef
    io: FileRef
    expected: str | None
    output: str | None = None
    threshold: float | None = None
    contract: Contract | None = None
    signature: Signature | None = None
    preprocessing: str | None = None


class Origin(Record):
    """The origin of the student: the architectures of student and teacher, and a description of the quantization."""

    student: str
    parameters: int | None
    teacher: str
    quantized: str
    distillation: str | None


class Card(Record):
    """A published student; `license` is None where none was stated.

    `measurements` are the student's, without layers, and `verdicts` compare them with the teacher. `bargain` says what
    the recommended model, by its hash, loses and gains against the teacher. `sha256` covers all other fields.
    """

    schema_: Literal["edgedistill.card/1"] = Field(alias="schema", default=SCHEMA)
    name: str
    created: str
    edgedistill: str
    license: str | None
    origin: Origin
    data: DataRecord
    metric: str
    models: tuple[CardModel, ...]
    measurements: tuple[Measurement, ...]
    verdicts: tuple[str, ...]
    limits: tuple[str, ...]
    versions: dict[str, str]
    bargain: str | None = None
    recommended: str | None = None
    tokenizer: FileRef | None = None
    sha256: str

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    @property
    def preferred(self) -> CardModel:
        """The model to use: the recommended one, otherwise the first."""
        return next((model for model in self.models if model.file.sha256 == self.recommended), self.models[0])

    def model_of(self, measurement: Measurement) -> CardModel:
        """Return the model that was measured."""
        return next(model for model in self.models if model.file.sha256 == measurement.model.sha256)


def read_card(path: Path) -> Card:
    """Read a card; raise ConfigError where the file is not a card, or was altered after it was written."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as a card: {error}") from None
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ConfigError(f"{path}: not a card: the schema is not '{SCHEMA}'; 'edgedistill card RUN' writes a card")
    if seal_of(table) != table.get(SEAL):
        raise ConfigError(f"{path}: was altered after it was written: its SHA-256 does not match its content")
    try:
        card = Card.model_validate_json(json.dumps(table))
    except ValidationError as error:
        raise ConfigError(explain_validation(error, path)) from None
    known = {model.file.sha256 for model in card.models}
    for m in card.measurements:
        if m.model.sha256 not in known:
            raise ConfigError(
                f"{path}: contains a measurement of a model that it does not list (SHA-256 {m.model.sha256[:12]}…)"
            )
    return card


def require_file(card_path: Path, ref: FileRef) -> Path:
    """Return the path of a card's file; raise ConfigError where it is missing, altered, or outside the card's folder."""
    parts = PurePosixPath(ref.path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ConfigError(
            f"{card_path}: lists the file '{ref.path}', which is outside the folder of the card; it was not read"
        )
    path = card_path.parent / parts
    if not path.is_file():
        raise ConfigError(f"{path}: missing; download it together with the card")
    sha256 = sha256_of(path)
    if sha256 != ref.sha256:
        raise ConfigError(
            f"{path}: not the file that the card lists: SHA-256 {sha256[:12]}… instead of {ref.sha256[:12]}…"
        )
    return path
