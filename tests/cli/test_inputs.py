"""One command, one input: an option is read, or refused with what to do instead; and dry runs of ONNX files."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from edgedistill.cli.file import bench_overrides
from edgedistill.cli.main import cli
from edgedistill.cli.options import Command, unread
from edgedistill.config.load import load_config
from edgedistill.errors import EdgedistillError
from tests.support.small_onnx import text_model

ONNX, CONFIG = "net.onnx", "demo.toml"
UNREAD = {
    "quantize": {ONNX: {"--set", "--skip-bad", "--from", "--run-dir", "--arch", "--decode", "--classes", "--view"},
                 CONFIG: {"--decode", "--classes", "--view", "--data", "--target", "--arch", "--shape", "-o", "--skip", "--activations", "--weights", "--max-class-drop", "--no-ranking", "--test", "--force"}},
    "export": {ONNX: {"--set", "--skip-bad", "--from", "--run-dir", "--arch"},
               CONFIG: {"--data", "--target", "--arch", "--shape", "-o", "--precision"}},
    "bench": {ONNX: {"--set", "--skip-bad", "--from", "--decode", "--classes", "--view"},
              CONFIG: {"--data", "--decode", "--classes", "--view", "--target", "--device", "--shape", "--threads"}},
    "lint": {ONNX: {"--arch", "-o"}},
    "init": {"folder": {"--test", "--target", "--device", "--p95-ms", "--size-bytes", "--accuracy", "--epochs", "--skip-bad", "--name", "--kind", "--task", "--teacher"}},
    "compare": {"run": {"--junit", "--phones", "--processes", "--seconds"}},
    "doctor": {CONFIG: {"--device"}},
}  # fmt: skip
"""By command and input, the options that the command does not read for this input without another option."""
VALUES = {
    "--caches": "cold",
    "--shape": "x=1x2", "--activations": "unsigned", "--weights": "narrow", "--from": "data", "--until": "report", "--precision": "int8",
    "--set": "seed=1", "--fail-if": "p95_ms > +5%", "--accuracy": "0.5",
    "--kind": "image", "--task": "regression",
}  # fmt: skip


def commands(group: click.Group = cli, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


def cases() -> Iterator[tuple[tuple[str, ...], str, str]]:
    for name, command in commands():
        for given in UNREAD.get(name[0], {"input": set()}):
            for option in command.params:
                if isinstance(option, click.Option):
                    yield name, given, max(option.opts, key=len)


def words(option: click.Option) -> list[str]:
    flag = max(option.opts, key=len)
    return [flag] if option.is_flag else [flag, VALUES.get(flag, "1")]


@pytest.mark.parametrize(("name", "given", "flag"), [*cases()])
def test_every_option_is_read_or_refused(name: tuple[str, ...], given: str, flag: str) -> None:
    command = dict(commands())[name]
    assert isinstance(command, Command)
    arguments = [given for one in command.params if isinstance(one, click.Argument)]
    for option in command.params:
        if isinstance(option, click.Option) and (option.required or flag in option.opts):
            arguments += words(option)
    refused = [*unread(command.make_context(name[-1], arguments))]
    assert len(refused) == (flag in UNREAD.get(name[0], {}).get(given, ())), refused
    assert all(message.startswith(f"{flag} only applies ") and "{" not in message for message in refused)


def run(*arguments: object) -> tuple[str, str]:
    """Return what a command prints on stdout, and the message of its error."""
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, (EdgedistillError, SystemExit)), result.exception
    return result.stdout, str(result.exception or "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", CONFIG, "--shape", "x=1x2"),
         "--shape only applies to .onnx files; remove it: the data in demo.toml sets the input shape"),
        (("bench", CONFIG, "--threads", "1"),
         "--threads only applies to .onnx files; set target.NAME.threads in demo.toml instead, or use --set target.NAME.threads=N"),
        (("bench", "net.onnx", "--set", "seed=1"),
         "--set only applies to configurations; remove it: net.onnx has no configuration keys"),
        (("quantize", "net.ONNX", "--run-dir", "runs/x"), "--run-dir only applies to configurations; use -o FILE instead"),
        (("lint", "net.onnx", "-o", "fixed.onnx"), "-o only applies with --fix; add --fix, or remove -o"),
        (("quantize", "net.onnx", "--arch", "aarch64"), "--arch only applies with --target KIT; add --target, or remove --arch"),
        (("compare", "runs/x", "--json", "--markdown"), "--markdown only applies without --json; remove one of the two"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do_instead(arguments: tuple[str, ...], message: str) -> None:
    assert run(*arguments) == ("", message)


def test_the_options_of_bench_are_keys_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text(
        'name = "x"\n[data]\ntrain = "a.npz"\n[teacher]\nmodel = "zoo:resnet20"\n[student]\nmodel = "zoo:resnet20"\n'
        '[[target]]\nname = "pc"\nkit = "ort"\n'
    )
    options = {
        "processes": 3,
        "seconds": 0.5,
        "soak_minutes": 2.0,
        "caches": "cold",
        "meter": tmp_path / 'a "meter".csv',
    }
    config = load_config(tmp_path / "demo.toml", bench_overrides(options))
    assert config.bench.model_dump(include={*options}) == options | {"meter": str(tmp_path / 'a "meter".csv')}
    assert bench_overrides(dict.fromkeys(options)) == ()


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A float model with an input of an open batch, and data for it, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    made = text_model(
        "(float[n, 4] x) => (float[n, 3] y) { y = Gemm(x, w, b) }",
        11,
        w=rng.normal(size=(4, 3)).astype(np.float32),
        b=np.ones(3, np.float32),
    )
    onnx.save(made, "net.onnx")
    np.savez("data.npz", inputs=rng.normal(size=(7, 4)).astype(np.float32))
    np.savez("test.npz", inputs=rng.normal(size=(5, 4)).astype(np.float32))
    return tmp_path


QUANTIZE = ("quantize", "net.onnx", "--data", "data.npz")
EXPORT = ("export", "net.onnx", "--target", "ort", "--precision", "fp32")
BENCH = ("bench", "net.onnx", "--target", "ort")


@pytest.mark.parametrize(
    ("command", "option", "key", "value"),
    [
        (QUANTIZE, (), "files", [{"file": "net-int8.onnx", "precision": "int8", "encoding": "s8-f32", "opset": 13, "exists": False}]),
        (QUANTIZE, (), "samples", 7),
        (QUANTIZE, (), "shapes", {"x": [1, 4]}),
        (QUANTIZE, ("--skip", "y"), "skip", ["y"]),
        (QUANTIZE, ("--activations", "unsigned"), "activations", "unsigned"),
        (QUANTIZE, ("--target", "ort", "--arch", "aarch64"), "arch", "aarch64"),
        (QUANTIZE, ("--target", "ort", "--target", "openvino"), "kits", ["ort", "openvino"]),
        (QUANTIZE, ("-o", "x.onnx"), "files", [{"file": "x.onnx", "precision": "int8", "encoding": "s8-f32", "opset": 13, "exists": False}]),
        (EXPORT, ("-o", "data.npz"), "files", [{"file": "data.npz", "precision": "fp32", "encoding": None, "opset": 11, "exists": True}]),
        (EXPORT, (), "precision", "fp32"),
        (EXPORT, ("--data", "data.npz"), "data", "data.npz"),
        (EXPORT, ("--shape", "x=2x4"), "shapes", {"x": [2, 4]}),
        (BENCH, (), "precision", "fp32"),
        (BENCH, ("--run-dir", "there"), "files", [f"there/{name}" for name in (
            "onnx/net.onnx", "onnx/io.npz", "artifacts/ort/fp32", "measurements/local-ort-fp32.json", "measurements/local-ort-fp32.npz")]),
        (BENCH, ("--shape", "x=2x4"), "shapes", {"x": [2, 4]}),
        (BENCH, ("--target", "openvino"), "kits", ["ort", "openvino"]),
        (QUANTIZE, (), "ranking", True),
        (QUANTIZE, ("--no-ranking",), "ranking", False),
        (QUANTIZE, ("--force",), "force", True),
        (QUANTIZE, ("--test", "test.npz"), "test", "test.npz"),
        (BENCH, ("--device", "ssh://me@board"), "options.device", "ssh://me@board"),
        (BENCH, ("--threads", 2), "options.threads", 2),
        (BENCH, (), "options.processes", 5),
        (BENCH, ("--processes", 3), "options.processes", 3),
        (BENCH, (), "options.seconds", 1.0),
        (BENCH, ("--seconds", 0.5), "options.seconds", 0.5),
        (BENCH, ("--caches", "cold"), "options.caches", "cold"),
        (BENCH, ("--soak", 2), "options.soak_minutes", 2.0),
        (BENCH, ("--meter", "m.csv"), "options.meter", "m.csv"),
    ],
)  # fmt: skip
def test_a_dry_run_of_a_file_says_what_each_option_does_and_does_nothing(
    net: Path, command: tuple[str, ...], option: tuple[object, ...], key: str, value: object
) -> None:
    before = {path: path.stat().st_mtime_ns for path in net.rglob("*")}
    output, error = run(*command, *option, "--dry-run", "--json")
    assert error == ""
    plan = json.loads(output)
    assert (plan["schema"], plan["command"], plan["model"]) == ("edgedistill.file_plan/1", command[0], "net.onnx")
    for part in key.split("."):
        plan = plan[part]
    assert plan == value
    text, error = run(*command, *option, "--dry-run")
    assert error == ""
    assert text.startswith(f"would {command[0]} net.onnx: ")
    assert {path: path.stat().st_mtime_ns for path in net.rglob("*")} == before


def test_a_dry_run_names_the_files_that_are_then_written(net: Path) -> None:
    command = (*QUANTIZE, "--target", "ort", "--target", "openvino")
    planned = json.loads(run(*command, "--dry-run", "--json")[0])["files"]
    output, error = run(*command, "--json")
    assert error == ""
    made = json.loads(output)["files"]
    keys = ("file", "precision", "encoding", "opset")
    assert [[one[key] for key in keys] for one in planned] == [[one[key] for key in keys] for one in made]
    assert run(*QUANTIZE)[1] == ""
    export = ("export", "net-int8.onnx", "--target", "openvino", "--precision", "int8")
    planned = json.loads(run(*export, "--dry-run", "--json")[0])["files"]
    output, error = run(*export, "--json")
    assert error == ""
    made = json.loads(output)["files"]
    assert [[one[key] for key in keys] for one in planned] == [[one[key] for key in keys] for one in made]


def test_a_dry_run_of_bench_names_the_files_that_are_then_written(net: Path) -> None:
    command = (*BENCH, "--processes", 1, "--seconds", 0.1, "--json")
    planned = {net / name for name in json.loads(run(*command, "--dry-run")[0])["files"]}
    assert run(*command)[1] == ""
    made = {path for path in (net / "runs").rglob("*") if path.is_file()}
    assert all(path.exists() for path in planned)
    assert all(planned & {path, *path.parents} for path in made), made - planned


@pytest.fixture
def two(net: Path) -> tuple[object, ...]:
    """The command that measures two files of one name, of which only the second has the input z."""
    (net / "new").mkdir()
    onnx.save(text_model("(float[n, 5] z) => (float[n, 5] y) { y = Relu(z) }", 11), net / "new" / "net.onnx")
    return ("bench", "net.onnx", "new/net.onnx", "--target", "ort", "--run-dir", "there", "--shape", "z=2x5")


def test_several_files_have_their_own_names_inputs_and_shapes(two: tuple[object, ...]) -> None:
    plan = json.loads(run(*two, "--dry-run", "--json")[0])
    assert (plan["shapes"], [one["shapes"] for one in plan["candidates"]]) == ({"x": [1, 4]}, [{"z": [2, 5]}])
    assert {"there/onnx/new/io.npz", "there/measurements/local-ort-new-fp32.json"} < set(plan["files"])
    assert "new/net.onnx: input z: 2x5" in run(*two, "--dry-run")[0].splitlines()
    assert "the model has no such input" in run(*two[:-1], "w=2", "--dry-run")[1]
    assert "two files have the same name" in run("bench", "net.onnx", "net.onnx", "--target", "ort")[1]
    assert "not an .onnx file" in run("bench", "net.onnx", "data.npz", "--target", "ort")[1]
    assert "give one configuration" in run("bench", "demo.toml", "net.onnx")[1]


@pytest.mark.slow
def test_several_files_are_measured_in_one_job_and_compared_with_the_first(two: tuple[object, ...]) -> None:
    planned = json.loads(run(*two, "--dry-run", "--json")[0])["files"]
    output, error = run(*two, "--processes", 3, "--seconds", 0.1, "--json")
    assert error == ""
    (group,) = json.loads(output)["groups"]
    assert group["baseline"] == "net fp32"
    assert [row["label"] for row in group["rows"]] == ["net fp32", "new fp32"]
    assert all(Path(name).exists() for name in planned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quantize", "net.onnx"), "give some with --data"),
        (
            ("export", "net.onnx", "--target", "ort", "--precision", "int8"),
            "a float model; first run 'edgedistill quantize",
        ),
        (("export", "net.onnx", "--target", "ort", "--precision", "fp16"), "kit 'ort' has no precision 'fp16'"),
        (("export", "net.onnx", "--target", "ort"), "choose a kit with --target, and --precision"),
        (("bench", "net.onnx", "--target", "orb"), "perhaps 'ort'?"),
        (("bench", "net.onnx", "--target", "ort", "--device", "moon"), "device 'moon'"),
        (("bench", "none.onnx", "--target", "ort"), "none.onnx: No such file"),
        (("bench", "net.onnx", "--target", "ort", "--shape", "z=1x4"), "z"),
    ],
)
def test_a_dry_run_finds_the_mistakes(net: Path, arguments: tuple[str, ...], message: str) -> None:
    output, error = run(*arguments, "--dry-run")
    assert output == ""
    assert message in error


@pytest.mark.parametrize("arguments", [QUANTIZE, (*QUANTIZE, "--dry-run"), EXPORT, ("lint", "net.onnx", "--fix")])
def test_an_output_that_is_a_folder_is_refused_before_the_work(net: Path, arguments: tuple[str, ...]) -> None:
    (net / "made").mkdir()
    (net / "data.npz").unlink()  # the work would end with an error about it
    _, error = run(*arguments, "-o", "made")
    assert "made: is a folder; name the file to write with -o, for example made/model.onnx" in error


def test_every_command_has_a_summary_of_one_short_sentence() -> None:
    for name, command in commands():
        summary = command.get_short_help_str(limit=88)
        assert summary.endswith("."), (name, summary)
        assert not summary.endswith("..."), (name, summary)
