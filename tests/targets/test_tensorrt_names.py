"""The TensorRT kit against the names that NVIDIA's published Python modules have, from 8.5.2 to 11.4: see tests/support/tensorrt_names.py."""

import ast
import json

import pytest

from tests.support.jobs import TARGETS
from tests.support.tensorrt_names import FILE, HAS

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
VERSIONS, NAMES = RECORDED["versions"], RECORDED["names"]
FILES = [TARGETS / "tensorrt" / name for name in ("trt_build.py", "trt_session.py")]
# What a variable of the kit holds; `made` and `cache` are buffers of bytes and the cache that they come from.
HOLDS = {
    "builder": "Builder", "parser": "OnnxParser", "config": "IBuilderConfig", "cache": "ITimingCache",
    "runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext", "inspector": "EngineInspector",
    "self._engine": "ICudaEngine", "self._context": "IExecutionContext", "trt": "",
}  # fmt: skip
SUBCLASSED = {"Logger": "ILogger", "Profiler": "IProfiler"}


def has(name, version):
    """Say whether a version has "Class.member", or a class."""
    place = VERSIONS.index(version)
    rows = [takes for each, takes in NAMES.items() if each == name or each.startswith(f"{name}.")]
    return any(row[place] == HAS for takes in rows for row in takes.values())


def takes(name, version):
    """Return the parameters of "Class.member" in a version, or None where they are not told."""
    place = VERSIONS.index(version)
    (text,) = [text for text, row in NAMES[name].items() if row[place] == HAS]
    return [each for each in text.strip("()").split(", ") if each] if text else None


def holder(node):
    """Return the class that an expression holds an object of ("" is the module), or None."""
    found = HOLDS.get(ast.unparse(node))
    if found is not None:
        return found
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"trt", "self._trt"}:
        return node.attr
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "parser.get_error":
        return "ParserError"
    return None


def spelt(owner, member):
    return f"{owner}.{member}" if owner else member


def used(tree):
    """Return the names that code uses without asking: "Class.member" or a class, with the line, and the call if it is one."""
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [
        (spelt(holder(node.value), node.attr), node.lineno, calls.get(id(node)))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and holder(node.value) is not None
    ]


def asked(tree):
    """Return the names that code asks for: `optional(OWNER, NAME)`, where a name that is no literal stands for the listed."""
    listed = {"flags": ["EXPLICIT_BATCH", "STRONGLY_TYPED"], "trt.BuilderFlag": ["FP16", "INT8"]}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"optional", "trt_build.optional"}:
            owner, name = node.args
            of = {"flags": "NetworkDefinitionCreationFlag"}.get(ast.unparse(owner), holder(owner))
            members = [name.value] if isinstance(name, ast.Constant) else listed.get(ast.unparse(owner), [])
            found += [spelt(of, member) for member in members]
    return found


def faults(source, version):
    """Return what code uses of a version that the version does not have, or calls with what it does not take."""
    found = []
    for name, line, call in used(ast.parse(source)):
        if name in {"__version__", "Builder", "OnnxParser", "Runtime"}:
            continue  # every module has a version; constructors are classes of the list below
        if not has(name, version):
            found.append(f"line {line}: {name} is not in {version}")
            continue
        known = takes(name, version) if call is not None and name in NAMES else None
        if known is not None:
            given = len(call.args) + len(call.keywords)
            wrong = [each.arg for each in call.keywords if each.arg not in known]
            if given > len(known) or wrong:
                found.append(f"line {line}: {name} takes {known} in {version}")
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_name_that_the_kit_uses_is_in_every_version(path, version):
    source = path.read_text(encoding="utf-8")
    assert len(used(ast.parse(source))) > 15, "the test finds the names"
    assert faults(source, version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_classes_that_are_made_or_derived_from_are_in_every_version(version):
    for name in ("Builder", "OnnxParser", "Runtime", "ILogger.log", "IProfiler.report_layer_time"):
        assert has(name, version)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_name_is_asked_for_only_where_some_version_lacks_it_and_some_has_it(path):
    names = asked(ast.parse(path.read_text(encoding="utf-8")))
    assert names
    for name in names:
        assert {has(name, version) for version in VERSIONS} == {True, False}, name


def test_overridden_methods_take_what_tensorrt_passes():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name in SUBCLASSED:
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                        given = [argument.arg for argument in method.args.args[1:]]
                        name = f"{SUBCLASSED[node.name]}.{method.name}"
                        assert [takes(name, version) for version in VERSIONS[1:]] == [given] * (len(VERSIONS) - 1)


@pytest.mark.parametrize(
    ("planted", "version", "said"),
    [
        ("engine.get_tensor_nmae(0)", "10.3.0", "line 1: ICudaEngine.get_tensor_nmae is not in 10.3.0"),
        ("config.set_flag(trt.BuilderFlag.INT8)", "11.4.0.106", "line 1: BuilderFlag.INT8 is not in 11.4.0.106"),
        ("engine.get_binding_name(0)", "10.3.0", "line 1: ICudaEngine.get_binding_name is not in 10.3.0"),
        ("config.builder_optimization_level = 3", "8.5.2.2", "line 1: IBuilderConfig.builder_optimization_level is"),
        ("context.execute_async_v3(stream, 1)", "10.3.0", "line 1: IExecutionContext.execute_async_v3 takes ["),
        ("config.set_timing_cache(cache, force=True)", "8.6.1", "line 1: IBuilderConfig.set_timing_cache takes ["),
        ("trt.TensorIOMod.INPUT", "11.0.0.114", "line 1: TensorIOMod.INPUT is not in"),
    ],
)
def test_a_wrong_name_would_be_found(planted, version, said):
    assert any(fault.startswith(said) for fault in faults(planted, version))


def test_the_recording_tells_what_is_known_of_the_versions():
    """Facts of NVIDIA's release notes and migration guides, so that an empty recording cannot pass."""
    assert [version for version in VERSIONS if has("BuilderFlag.FP16", version)] == VERSIONS[:-2]
    assert [
        version for version in VERSIONS if has("NetworkDefinitionCreationFlag.STRONGLY_TYPED", version)
    ] == VERSIONS[2:]
    assert [version for version in VERSIONS if has("ICudaEngine.num_bindings", version)] == VERSIONS[:2]
    assert [version for version in VERSIONS if has("DataType.INT64", version)] == VERSIONS[2:]
