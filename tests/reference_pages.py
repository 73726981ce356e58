"""Write the generated pages of docs/ from the code and the committed results: python tests/reference_pages.py.

The pages are configuration.md, python.md and zoo.md. tests/help_texts.py writes docs/commands.md.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
WRITTEN: Final = "<!-- Written by tests/reference_pages.py; edit the code, and run that script again. -->\n"


# ---- configuration.md


CONFIGURATION: Final = """# Configuration keys

A configuration is a TOML file. Paths in it are relative to its folder. An unknown key is an error that names the nearest known key.
`edgedistill init` without `--data` writes a file with all usual keys as comments; `--set KEY=VALUE` changes a key for one command, for
example `--set distill.temperature=2` or `--set target.pc.threads=2`.

A key without a default is required, or stays unset: "-".
"""


def configuration() -> str:
    """Return the page of all keys: their types, defaults and sentences, from the records of edgedistill/config/."""
    from edgedistill.config import data, gates, schema, training

    tables: list[tuple[str, type[Any]]] = [
        ("top level", schema.Config), ("[data]", data.DataConfig), ("[data.mel]", data.MelConfig),
        ("[data.inputs.NAME]", data.InputConfig), ("[teacher]", training.TeacherConfig),
        ("[student]", training.StudentConfig), ("[distill]", training.DistillConfig),
        ("[quantize]", schema.QuantizeConfig), ("[export]", schema.ExportConfig), ("[[target]]", schema.TargetConfig),
        ("[target.budget]", schema.Budget), ("[bench]", schema.BenchConfig), ("[gate]", gates.GateConfig),
        ("[tracking]", schema.TrackingConfig),
    ]  # fmt: skip
    return CONFIGURATION + "".join(table_of(title, record) for title, record in tables)


def table_of(title: str, record: type[Any]) -> str:
    """Return the section of a table of the configuration; its own keys come before inherited ones."""
    sentences = key_sentences(record)
    described = record.model_json_schema(mode="validation")
    own = [key for key in record.model_fields if key in record.__annotations__]
    rows = []
    for key in [*own, *(key for key in record.model_fields if key not in own)]:
        if key not in sentences:  # each table of the top level has a section
            assert record.__name__ == "Config", f"{record.__name__}.{key} has no sentence below it"
            continue
        field = described["properties"][key]
        kind = kind_of(field, described.get("$defs", {}))
        rows.append(f"| `{key}` | {kind} | {default_of(record, key)} | {cell(sentences[key])} |")
    body = "\n".join(["| key | type | default | |", "|---|---|---|---|", *rows])
    about = inspect.cleandoc(record.__doc__ or "") if record.__name__ != "Config" else ""
    heading = f"\n## {title}\n\n" if title == "top level" else f"\n## `{title}`\n\n"
    return f"{heading}{about}\n\n{body}\n" if about else f"{heading}{body}\n"


def key_sentences(record: type[Any]) -> dict[str, str]:
    """Return the string below each field in the source of a record and of its parents."""
    found: dict[str, str] = {}
    for kind in reversed(record.__mro__):
        if kind.__module__.startswith("edgedistill.config"):
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
            assert isinstance(body, ast.ClassDef)
            for field, text in zip(body.body, body.body[1:], strict=False):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(sentence))):
                        found[key] = sentence
    return found


def kind_of(field: dict[str, Any], defs: dict[str, Any]) -> str:
    """Return a type of the JSON schema in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return {"ModelSpec": "text"}.get(name, "table")
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind_of(one, defs) for one in field["anyOf"] if one.get("type") != "null"))
    if "enum" in field or "const" in field:
        return ", ".join(f'`"{one}"`' for one in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        parts = field.get("prefixItems") or [field["items"]]
        return f"list of {' and '.join(dict.fromkeys(kind_of(one, defs) for one in parts))}"
    words = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "object": "tables"}
    return f"{words[field['type']]}{limits_of(field)}"


def limits_of(field: dict[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {field[key]}" for key, sign in signs.items() if key in field and field[key] < 2**63]
    return f", {' and '.join(limits)}" if limits else ""


def default_of(record: type[Any], key: str) -> str:
    """Return a default as TOML, or a dash for keys that have none."""
    field = record.model_fields[key]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or not isinstance(value, (str, int, float, tuple)):
        return "-"
    return f"`{json.dumps(value)}`"


# ---- python.md


PYTHON: Final = """# Python

Each command of the command line is a function, which returns frozen records. `edgedistill.run` is `edgedistill.api.run`; the other
functions are in `edgedistill.api`.

"""
READ: Final = (
    "edgedistill.api", "edgedistill.compare.comparison", "edgedistill.search.records", "edgedistill.records.stages",
)  # fmt: skip
"""The modules whose records are shown with their fields."""


def python() -> str:
    """Return the page of the Python interface, from the signatures and docstrings of edgedistill.api."""
    from edgedistill import api, errors
    from edgedistill.compare.comparison import Comparison
    from edgedistill.records import stages
    from edgedistill.search import records as search

    about = inspect.cleandoc(api.__doc__ or "").partition("\n\n    import")
    example, _, rest = ("import" + about[2]).partition("\n\nRecords are")
    parts = [PYTHON, "```text\n", textwrap.dedent(f"    {example}"), f"\n```\n\nRecords are{rest}\n"]
    functions = [one for name, one in vars(api).items() if inspect.isfunction(one) and is_public(api, name, one)]
    parts.append("\n## Functions\n" + "".join(function_section(one) for one in functions))
    made = [one for one in vars(stages).values() if inspect.isclass(one) and issubclass(one, stages.StageRecord)]
    records = (api.RunResult, Comparison, search.SearchOptions, search.SearchResult, *made[1:])
    parts.append("\n## Records\n" + "".join(record_section(one) for one in records))
    parts.append("\n## Errors\n\n| error | exit code | raised if |\n|---|---|---|\n")
    raised = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.EdgedistillError)]
    parts.extend(f"| `{one.__name__}` | {one.exit_code} | {cell(inspect.getdoc(one) or '')} |\n" for one in raised)
    return "".join(parts)


def is_public(module: Any, name: str, member: Any) -> bool:
    return not name.startswith("_") and member.__module__ == module.__name__


def function_section(function: Callable[..., Any]) -> str:
    return f"\n### `{function.__name__}`\n\n```text\n{signature(function)}\n```\n\n{inspect.getdoc(function)}\n"


def signature(function: Callable[..., Any]) -> str:
    """Return the name, parameters and types of a function, on one line."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    node.body, node.decorator_list = [ast.Pass()], []
    line = ast.unparse(node).partition("\n")[0].removeprefix("def ").removesuffix(":")
    return re.sub(r"(?<=[\w\]])=", " = ", line)


def record_section(record: type[Any]) -> str:
    """Return the section of a record: its fields and properties with their types."""
    shown = [one for kind in reversed(record.__mro__) if kind.__module__ in READ for one in members(kind)]
    if any(text for _, _, text in shown):
        rows = [
            "| name | type | |",
            "|---|---|---|",
            *(f"| `{name}` | {kind} | {text} |" for name, kind, text in shown),
        ]
    else:
        rows = ["| name | type |", "|---|---|", *(f"| `{name}` | {kind} |" for name, kind, _ in shown)]
    return f"\n### `{record.__name__}`\n\n{inspect.getdoc(record)}\n\n" + "\n".join(rows) + "\n"


def members(record: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the type and the sentence of each public field and property in the source of a class."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if "ClassVar" not in ast.unparse(kind):
                yield name, code(kind), ""
            case ast.FunctionDef(name=name, returns=ast.expr() as kind) if is_property(node) and name[0] != "_":
                yield name, code(kind), cell(ast.get_docstring(node) or "")


def is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id in {"property", "cached_property"} for one in node.decorator_list)


def code(node: ast.expr) -> str:
    return f"`{ast.unparse(node)}`".replace("|", "\\|")


# ---- zoo.md


ZOO: Final = """# The zoo

The networks of `model = "zoo:NAME"`, for the teacher and for the student. `width` multiplies the channels and `depth` the blocks. The
number of channels of the input, its size and the number of outputs come from the data. Parameters and multiply-accumulates (MACs) of
one sample are counted here at `width = 1` and `depth = 1`, for the input and the outputs of the table; `edgedistill search` lists the
largest network of each family that fits your budget on your device.

| name | input | outputs | parameters | MACs | |
|---|---|---|---|---|---|
"""
MEASURED: Final = """
## Measured accuracy

Accuracy of the compiled fp32 file in ONNX Runtime on the whole test set, with its 95 % interval. The files are in `benchmarks/`;
the students are distilled from the teacher in the row above. `cifar10` is CIFAR-10-JPEG: accuracies published for CIFAR-10 do not apply
to it.

| `benchmarks/` | model | `width` | role | parameters | metric | value | test samples |
|---|---|---|---|---|---|---|---|
"""


class Example(NamedTuple):
    """The input for which a network of the zoo is counted: channels and size, or tokens."""

    channels: int
    shape: tuple[int, ...]
    outputs: int = 10
    vocabulary: int | None = None


PICTURE: Final = Example(3, (32, 32))
EXAMPLES: Final = {
    "ds-cnn": Example(1, (49, 10), 12),
    "mobilenetv1": Example(3, (96, 96), 2),
    "cnn1d": Example(6, (128,), 7),
    "transformer": Example(1, (128,), 2, vocabulary=8000),
    "detector": Example(3, (416, 416), 3),
    "segmenter": Example(3, (240, 320), 11),
}


def zoo() -> str:
    """Return the page of the zoo: each network with its size, and the accuracies in benchmarks/."""
    from edgedistill.models.build import ZOO as NETWORKS

    rows = "".join(network_row(name, one.build) for name, one in NETWORKS.items())
    return ZOO + rows + MEASURED + "".join(measured_rows())


def network_row(name: str, build: Callable[..., Any]) -> str:
    """Build a network, count its parameters and the MACs of one sample, and return its row."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    example = EXAMPLES.get(name, PICTURE)
    known = {
        "classes": example.outputs,
        "channels": example.channels,
        "shape": example.shape,
        "width": 1.0,
        "depth": 1.0,
    }
    known |= {"vocabulary": example.vocabulary}
    model = build(**{key: known[key] for key in inspect.signature(build).parameters}).eval()
    size = (1, *example.shape) if example.vocabulary else (1, example.channels, *example.shape)
    sample = torch.zeros(size, dtype=torch.long if example.vocabulary else torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(sample)
    parameters = sum(one.numel() for one in model.parameters())
    what = (
        f"{example.shape[0]} tokens of {example.vocabulary:,}" if example.vocabulary else " x ".join(map(str, size[1:]))
    )
    about = (inspect.getdoc(build) or "").partition("\n")[0]
    macs = counter.get_total_flops() / 2 / 1e6
    return f"| `{name}` | {what} | {example.outputs} | {parameters:,} | {macs:,.2f} M | {cell(about)} |\n"


def measured_rows() -> Iterator[str]:
    for path in sorted(ROOT.glob("benchmarks/*/result/manifest.json")):
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        trained = stages.get("distill", stages.get("student"))["record"]["student"]
        for role, record, file in (
            ("teacher", stages["teacher"]["record"], "local-ort-teacher-fp32.json"),
            ("student", trained, "local-ort-fp32.json"),
        ):
            measured = json.loads((path.parent / file).read_text(encoding="utf-8"))["accuracy"]
            low, high = (100 * one for one in measured["ci95"])
            metric = {"top1": "accuracy", "mean_ap": "mean average precision"}[measured["metric"]]
            width = widths(stages)[role]
            yield (
                f"| `{path.parent.parent.name}` | `{record['spec']}` | {width:g} | {role} | {record['parameters']:,} | {metric} "
                f"| {100 * measured['value']:.1f} % ({low:.1f} to {high:.1f}) | {measured['n']:,} |\n"
            )


def widths(stages: dict[str, Any]) -> dict[str, float]:
    """Return the widths of the teacher and the student; older and newer manifests have them at different places."""
    teacher = stages["teacher"]["config"]["teachers"][0]
    student = stages.get("distill", stages.get("student"))["config"]["student"]
    return {
        "teacher": teacher.get("source", teacher)["width"],
        "student": student["width"] if "width" in student else student["model"]["width"],
    }


# ---- all pages


def cell(text: str) -> str:
    """Return a text as one cell of a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


PAGES: Final[dict[str, Callable[[], str]]] = {"configuration": configuration, "python": python, "zoo": zoo}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    for page, write in PAGES.items():
        (folder / f"{page}.md").write_text(WRITTEN + "\n" + write(), encoding="utf-8")
