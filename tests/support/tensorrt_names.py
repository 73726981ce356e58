"""What the published Python modules of TensorRT have, of what the kit uses: names, and what their docstrings say they take.

    python tests/support/tensorrt_names.py FOLDER... > tests/targets/recorded/tensorrt-names.json

Each FOLDER is an unpacked wheel of `tensorrt-bindings`, `tensorrt-cu12-bindings` or `tensorrt-cu13-bindings` for the Python that
runs this. The wheels lack NVIDIA's libraries; stubs of the nine functions that the module calls when it is imported stand in for
them, so a C compiler is needed. Names of 8.5.2.2, whose module is only in a wheel of 549 MB, were listed the same way from
that wheel, without signatures, and are kept.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CLASSES = (
    "Builder", "BuilderFlag", "DataType", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext",
    "IHostMemory", "ILogger", "IProfiler", "ITimingCache", "LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "ProfilingVerbosity", "Runtime",
    "TensorIOMode",
)  # fmt: skip
STUBS = """
void *createInferBuilder_INTERNAL(void *a, int b) { return 0; }
void *createInferRuntime_INTERNAL(void *a, int b) { return 0; }
void *createInferRefitter_INTERNAL(void *a, void *b, int c) { return 0; }
void *createNvOnnxParser_INTERNAL(void *a, void *b, int c) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *a, void *b, int c) { return 0; }
void *getBuilderPluginRegistry(int a) { return 0; }
void *getPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void *a, const char *b) { return 1; }
"""
HAS, LACKS = "x", "."
FILE = Path(__file__).resolve().parents[1] / "targets" / "recorded" / "tensorrt-names.json"


def names_of(module):
    """Return each member of each class with what it takes, as "Class.member" and "(name, …)", or "" where that is not told."""
    return {
        f"{name}.{member}": parameters(getattr(found, member))
        for name, found in ((name, getattr(module, name, None)) for name in CLASSES)
        if found is not None
        for member in dir(found)
        if not member.startswith("_")
    }


def parameters(member):
    """Return the names in a signature as pybind11 writes it, of several overloads the first."""
    found = re.search(r"^(?:\d+\. )?\w+\(self: (.*?)\) -> ", getattr(member, "__doc__", None) or "", re.MULTILINE)
    taken = re.findall(r", (\w+)(?=:)", found[1]) if found else []
    return f"({', '.join(taken)})" if found else ""


def inside(folder):
    """Import the module of an unpacked wheel with stubs for its libraries, and print its names."""
    sys.path.insert(0, str(folder))
    import tensorrt_bindings

    module = tensorrt_bindings.tensorrt if hasattr(tensorrt_bindings, "tensorrt") else tensorrt_bindings
    sys.stdout.write(json.dumps({str(tensorrt_bindings.__version__): names_of(module)}))


def needed(library):
    said = subprocess.run(["objdump", "-p", str(library)], capture_output=True, text=True, check=True).stdout
    return [name for name in re.findall(r"NEEDED\s+(\S+)", said) if name.startswith(("libnv", "libcuda"))]


def old_parsers(library):
    """Yield stubs of the parsers that 8.x names the addresses of."""
    said = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    for number, name in enumerate(re.findall(r"U (_Z\w*nv(?:caffe|uff)parser\w*)", said)):
        yield f'void *parser{number}(void) __asm__("{name}");\nvoid *parser{number}(void) {{ return 0; }}\n'


def dump(folder):
    (library,) = folder.glob("tensorrt_bindings/tensorrt.so")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "stubs.c"
        source.write_text(STUBS + "".join(old_parsers(library)), encoding="utf-8")
        for name in needed(library):
            subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", f"{scratch}/{name}", str(source)], check=True)
        command = [sys.executable, __file__, "--inside", str(folder)]
        done = subprocess.run(command, env={"LD_LIBRARY_PATH": scratch}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(folders):
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    found = {"8.5.2.2": {name: "" for name, takes in kept["names"].items() if takes.get("", "")[:1] == HAS}}
    for folder in folders:
        found |= dump(Path(folder))
    versions = sorted(found, key=lambda version: [int(part) for part in version.split(".")])
    names = {}
    for place, version in enumerate(versions):
        for name, takes in found[version].items():
            row = names.setdefault(name, {}).setdefault(takes, list(LACKS * len(versions)))
            row[place] = HAS
    lines = [
        f"{json.dumps(name)}: {json.dumps({takes: ''.join(row) for takes, row in names[name].items()})}"
        for name in sorted(names)
    ]
    sys.stdout.write(f'{{"versions": {json.dumps(versions)}, "names": {{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    inside(sys.argv[2]) if sys.argv[1] == "--inside" else main(sys.argv[1:])
