"""Kits: one folder per deployment target, in the package, in folders of the user, or in plug-ins.

To add a target, add a folder with a `target.toml` and an `engine.py`. The host reads `target.toml`; the device runs `engine.py`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

import edgedistill.errors
from edgedistill.errors import ConfigError, nearest
from edgedistill.records.base import Activations, Encoding, Record

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENTRY_POINTS = "edgedistill.targets"
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "aarch64"}
"""The names that kits use for machine architectures, by other names of the same architecture in lower case."""

ALIASES = {"onnxruntime": "ort", "onnx-runtime": "ort", "jetson": "tensorrt", "trt": "tensorrt"}
"""Other names that people use for kits."""

FLOAT16_OPSET = 19
"""The first opset whose QuantizeLinear takes float16."""

Severity = Literal["error", "warning", "off"]


class Form(Record):
    """The encoding of int8 models and the highest opset that an engine supports from version `since` on."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    since: Annotated[str, Field(alias="from", pattern=r"^\d+(\.\d+)*$")]
    encoding: Encoding
    opset: Annotated[int, Field(ge=7)]

    @model_validator(mode="after")
    def _opset_has_the_encoding(self) -> Form:
        if self.encoding == "s8-f16" and self.opset < FLOAT16_OPSET:
            raise ValueError(f"encoding s8-f16 needs opset {FLOAT16_OPSET} or later, where scales may be float16")
        return self


class Kit(Record):
    """One deployment target: the engine's Python module and pip package, and the models that the engine supports.

    `encoding` is the fastest int8 encoding by architecture, and `alternatives` are faster ones for some transformers; `opset` is the highest supported opset; `form` describes other
    versions of the engine; `unsupported` names operators, domains of operators and tensor types that the engine rejects;
    `rules` overrides the severity of rules of `edgedistill lint`. Only kits with `lengths` run models whose inputs vary in length.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    engine: str
    package: str
    precisions: Annotated[tuple[str, ...], Field(min_length=1)]
    opset: Annotated[int, Field(ge=7)]
    install: str
    encoding: dict[str, Encoding]
    alternatives: tuple[Encoding, ...] = ()
    form: tuple[Form, ...] = ()
    unsupported: tuple[str, ...] = ()
    lengths: bool = False
    rules: dict[str, Severity] = Field(default_factory=dict)
    folder: Path = Field(exclude=True)

    def encoding_for(self, arch: str) -> Encoding:
        """Return the int8 encoding for an architecture, which may have any of its usual names."""
        known = ARCHITECTURES.get(arch.lower(), arch)
        if known not in self.encoding:
            path = self.folder / "target.toml"
            raise ConfigError(f"{path}: [encoding] has no '{arch}'; it has: {', '.join(sorted(self.encoding))}")
        return self.encoding[known]

    def form_for(self, arch: str, version: str) -> Form:
        """Return the newest form for an architecture and an engine version such as "10.3.0"."""
        forms = sorted(self._forms(arch), key=lambda form: _numbers(form.since))
        return [form for form in forms if _numbers(form.since) <= (_numbers(version) or (0,))][-1]

    def forms(self) -> tuple[Form, ...]:
        """Return the forms for all architectures and engine versions: models are exported before the device is known."""
        return tuple(dict.fromkeys(form for arch in sorted(self.encoding) for form in self._forms(arch)))

    @property
    def takes_unsigned(self) -> bool:
        """Whether the kit has an encoding with unsigned activations."""
        return any(encoding.startswith("u8") for encoding in self.encoding.values())

    def for_activations(self, activations: Activations) -> Kit:
        """Return the kit limited to encodings for these activations; u8-f32 and u8-i32 are unsigned.

        An architecture with a signed encoding gets the unsigned encoding of the kit. Raises ConfigError if there is none.
        """
        if activations == "signed":
            return self
        unsigned = [encoding for _, encoding in sorted(self.encoding.items()) if encoding.startswith("u8")]
        if not unsigned:
            raise ConfigError(
                f"kit '{self.name}' takes no unsigned activations, only {', '.join(sorted(set(self.encoding.values())))}: "
                "quantize with activations = 'signed', or use a separate configuration for that kit"
            )
        encoding = {arch: own if own in unsigned else unsigned[0] for arch, own in self.encoding.items()}
        forms = tuple(form for form in self.form if form.encoding.startswith("u8"))
        return self.model_copy(update={"encoding": encoding, "form": forms})

    def with_encoding(self, encoding: Encoding) -> Kit:
        """Return the kit limited to one encoding, on every architecture and in every version of the engine."""
        rules = self.rules | ({"float-input": "off"} if encoding == "w8-f32" else {})
        return self.model_copy(update={"encoding": dict.fromkeys(self.encoding, encoding), "form": (), "rules": rules})

    def _forms(self, arch: str) -> tuple[Form, ...]:
        return Form(since="0", encoding=self.encoding_for(arch), opset=self.opset), *self.form


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: "10.3.0+jetson" is (10, 3, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def find_kits(extra: tuple[Path, ...] = ()) -> dict[str, Kit]:
    """Return all kits by name: built-in kits, kits in `extra` folders, and kits of installed plug-ins."""
    kits: dict[str, Kit] = {}
    for folder in (*_kit_folders(targets_folder()), *_extra_folders(extra), *_plugin_folders()):
        kit = read_kit(folder)
        if kit.name in kits:
            raise ConfigError(f"{folder}: kit '{kit.name}' is already in {kits[kit.name].folder}; rename one")
        kits[kit.name] = kit
    return kits


def find_kit(name: str, kits: dict[str, Kit]) -> Kit:
    """Return the kit of that name or alias, or raise ConfigError with the nearest match."""
    if name not in kits and ALIASES.get(name) in kits:
        return kits[ALIASES[name]]
    if name not in kits:
        if (targets_folder() / name / "index.html").is_file():
            raise ConfigError(f"'{name}' is a page for browsers, not a kit; run 'edgedistill serve RUN' instead")
        raise ConfigError(f"unknown kit '{name}'{nearest(name, kits)}")
    return kits[name]


def targets_folder() -> Path:
    """Return the folder of the project's kits: inside the package when installed, beside it in a checkout."""
    package = Path(edgedistill.errors.__file__).parent
    inside = package / "targets"
    return inside if inside.is_dir() else package.parent / "targets"


def read_kit(folder: Path) -> Kit:
    """Read the target.toml of a kit; raises ConfigError that names the file, the key, and the nearest match of a misspelt key."""
    path = folder / "target.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a kit is a folder with a target.toml and an engine.py") from None
    try:
        return Kit.model_validate(table | {"folder": folder.resolve()})
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_explain(dict(one))}" for one in error.errors())) from None


def _explain(error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{nearest(key, set(Kit.model_fields) - {'folder'})}"
    if error["type"] == "missing":
        return f"key '{key}' is missing"
    return f"{key}: {error['msg'][:1].lower()}{error['msg'][1:]}, not {error['input']!r}"


def _kit_folders(folder: Path) -> Iterator[Path]:
    """Yield the kits in a folder; browser pages are not kits, although they have a target.toml."""
    folders = sorted(path.parent for path in folder.glob("*/target.toml"))
    yield from (kit for kit in folders if not (kit / "index.html").is_file())


def _extra_folders(extra: tuple[Path, ...]) -> Iterator[Path]:
    for folder in extra:
        folders = [folder] if (folder / "target.toml").is_file() else list(_kit_folders(folder))
        if not folders:
            raise ConfigError(f"{folder}: contains no kit; a kit is a folder with a target.toml and an engine.py")
        yield from folders


def _plugin_folders() -> Iterator[Path]:
    """Yield the kits of installed plug-ins; an entry point names a package that is a kit or contains kits."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            spec = importlib.util.find_spec(point.module)  # does not run the package itself, only its parents
        except ImportError as error:
            raise ConfigError(
                f"entry point '{point.name}' of {ENTRY_POINTS}: {error}; reinstall or remove it"
            ) from None
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"entry point '{point.name}' of {ENTRY_POINTS}: '{point.module}' is not a package")
        yield from _extra_folders(tuple(Path(place) for place in spec.submodule_search_locations))
