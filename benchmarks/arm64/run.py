"""What a run's student answers on an emulated ARM64, and how many instructions an inference takes, by int8 encoding.

    benchmarks/arm64/prepare.sh FOLDER
    python benchmarks/arm64/run.py FOLDER RUN RESULT.json

RUN is a finished run, such as runs/cifar10-resnet8. Instructions are no time: they know no caches, no pipeline and no clock. They
are the same on every machine, as nothing else here is, and tell which kernels ran.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from edgedistill.deploy.harness import Compilation, compile_model
from edgedistill.graphs.encodings import encode
from edgedistill.kits.kits import read_kit, targets_folder
from edgedistill.records.base import Encoding
from edgedistill.runtime.files import sha256_of

CPUS = ("cortex-a53", "cortex-a76")  # without and with instructions for dot products of int8
FORMS: dict[str, Encoding | None] = {"fp32": None, "int8 u8-i32": "u8-i32", "int8 s8-i32": "s8-i32"}
FEW, MANY, CHECKED = 1, 6, 100


def main(device: Path, run: Path, result: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        with np.load(run / "onnx" / "io.npz", allow_pickle=False) as recorded:
            (inputs,) = [name for name in recorded.files if name.startswith("input.")]
            recorded[inputs][:CHECKED].tofile(work / "input")
            for precision in ("fp32", "int8"):
                (outputs,) = [name for name in recorded.files if name.startswith(f"expected.student-{precision}.")]
                recorded[outputs][:CHECKED].tofile(work / f"expected-{precision}")
        table = {name: arm(device, run, work, name) for name in FORMS}
    engine = json.loads(on_device(device, CPUS[0], "probe")[0])["engine"]
    qemu = shutil.which("qemu-aarch64") or sys.exit("qemu-aarch64 is missing")
    told = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    answer = {
        "target": "emulated-arm64", "latency_ns": None,
        "reasons": {"latency_ns": "QEMU plays the processor: times would be the emulator's"},
        "student_sha256": sha256_of(run / "onnx" / "student-fp32.onnx"), "engine": engine, "emulator": told.partition("\n")[0], "models": table,
    }  # fmt: skip
    result.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")


def arm(device: Path, run: Path, work: Path, name: str) -> dict:
    """Compile a model for phones, check it on each processor, and count."""
    precision = name.partition(" ")[0]
    model = onnx.load(run / "onnx" / f"student-{precision}.onnx")
    source = work / f"{precision}.onnx"
    encoding = FORMS[name]
    onnx.save(encode(model, encoding) if encoding else model, source)
    out = work / name.replace(" ", "-")
    out.mkdir()
    compile_model(
        Compilation(kit=read_kit(targets_folder() / "ort"), model=source, precision=precision, threads=1, out=out)
    )
    entry = out / "mobile" / "model.ort"
    found = {"size_bytes": entry.stat().st_size, "cpus": {}}
    for cpu in CPUS:
        options = ("--model", entry, "--input", work / "input", "--expected", work / f"expected-{precision}")
        checked = json.loads(on_device(device, cpu, "check", *options)[0])
        few, many = (
            count(on_device(device, cpu, "check", *options, "--requests", n, insn=True)[1]) for n in (FEW, MANY)
        )
        each = {kind: round((many[kind] - few[kind]) / (MANY - FEW)) for kind in many}
        found["cpus"][cpu] = {
            "requests": checked["requests"],
            "parity": checked["parity"],
            "instructions_per_inference": each,
        }
        print(
            f"{name} on {cpu}: {each['all']:,} instructions, of which {each['dot']:,} dot products; {checked['parity']}"
        )
    return found


def on_device(device: Path, cpu: str, *arguments: object, insn: bool = False) -> tuple[str, str]:
    """Run the runner; return the last line of its stdout, and its stderr."""
    command = [str(device / "run"), cpu, "./edrun", *map(str, arguments)]
    done = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin"} | ({"INSN": "1"} if insn else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout.strip().rsplit("\n", 1)[-1], done.stderr


def count(stderr: str) -> dict:
    return json.loads(stderr.strip().rsplit("\n", 1)[-1])["instructions"]


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
