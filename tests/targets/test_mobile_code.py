"""The contract in Kotlin and Swift: compiled, and compared with the reference in NumPy on the same pictures and outputs.

The Kotlin compiler is `kotlinc`, or the jar files of the package kotlin-jupyter-kernel (pip install --no-deps). The Swift compiler is
`swiftc`, or what EDGEDISTILL_SWIFT names: a folder with a root file system that contains one.
"""

import importlib.util
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import detections
import maps
import numpy as np
import picture
import pytest

from edgedistill.kits.kits import targets_folder
from edgedistill.mobile.contract_code import contract_code
from edgedistill.records.contract import Contract, DetectionRules, PictureRules

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent / "mobile"
CLASSES = ("cell", 'a "quoted" $name', "back\\slash\nand line", "ünïcode 🦉")
LIMITS = DetectionRules(floor=0.05, overlap=0.6, limit=20)
RULES = ("letterbox", "letterbox-corner", "stretch", "crop", None)
SIZES = ((97, 61), (61, 97), (40, 30), (48, 36), (300, 7))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def rules_of(rule: str | None, channels: int) -> dict[str, object]:
    return {
        "width": 48, "height": 36, "rule": rule, "padding": 114, "colour": "rgb" if channels == 3 else "grey", "dtype": "float32",
        "layout": "NCHW", "divide_by": 255.0, "mean": MEAN[:channels], "std": STD[:channels],
    }  # fmt: skip


def write_cases(folder: Path) -> None:
    """Write a picture, rules and outputs per case."""
    rng = np.random.default_rng(0)
    for number, (rule, size, channels) in enumerate(itertools.product(RULES, SIZES, (1, 3))):
        width, height = (48, 36) if rule is None else size
        case = folder / f"case{number}"
        case.mkdir()
        case.joinpath("picture").write_bytes(rng.integers(0, 256, (height, width, channels), np.uint8).tobytes())
        case.joinpath("sizes").write_text(f"{width} {height} {channels} 48 36\n")
        norm = " ".join(",".join(map(str, values[:channels])) for values in (MEAN, STD))
        case.joinpath("rules").write_text(f"{rule or 'none'} 114 {norm}\n")
        corners = rng.uniform(0, 30, (60, 2, 2)).astype(np.float32)
        boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
        outputs = {
            "logits": rng.normal(0, 3, 9), "maps": rng.normal(0, 1, (5, 11, 13)),
            "scores": rng.choice([0.02, 0.3, 0.5, 0.9], (60, 3)), "boxes": np.where(rng.random((60, 1)) < 0.1, 3.0, boxes),
        }  # fmt: skip
        for name, values in outputs.items():
            case.joinpath(name).write_bytes(values.astype(np.float32).tobytes())


def compare(folder: Path) -> None:
    """Compare what a program wrote with the reference."""
    assert (folder / "classes").read_text(encoding="utf-8") == "\n".join(CLASSES)
    cases = sorted(folder.glob("case*"))
    assert len(cases) == 50
    for case in cases:
        width, height, channels, *_ = map(int, (case / "sizes").read_text().split())
        rule = (case / "rules").read_text().split()[0]
        rules = rules_of(None if rule == "none" else rule, channels)
        shape = (height, width, 3) if channels == 3 else (height, width)
        pixels = np.frombuffer((case / "picture").read_bytes(), np.uint8).reshape(shape)
        assert (case / "bytes").read_bytes() == picture.place(pixels, rules).tobytes(), case
        read = {path.name: np.fromfile(path, np.float32) for path in case.iterdir()}
        wanted = picture.prepare(pixels, {"picture": rules})
        np.testing.assert_allclose(read["floats"], wanted.ravel(), rtol=0, atol=1e-6)
        exponentials = np.exp(read["logits"].astype(np.float64))
        np.testing.assert_allclose(read["softmax"], exponentials / exponentials.sum(), rtol=1e-6)
        np.testing.assert_allclose(read["sigmoid"], exponentials / (1 + exponentials), rtol=1e-6)
        mask = maps.resized(read["maps"].reshape(5, 11, 13), (36, 48)).argmax(0)
        assert (np.frombuffer((case / "mask").read_bytes(), np.uint8).reshape(36, 48) == mask).mean() > 0.999
        limits = detections.Rules(**LIMITS.model_dump())
        found = detections.detect(read["scores"].reshape(60, 3), read["boxes"].reshape(60, 4), limits)
        found = found[found[:, 0] >= 0]
        if rules["rule"] is not None:
            found[:, 2:] = picture.place_of(width, height, rules).to_picture(found[:, 2:])
        found[:, 2:] = np.clip(found[:, 2:], 0, [width, height] * 2)
        np.testing.assert_allclose(read["detections"].reshape(-1, 6), found, rtol=0, atol=1e-4)


def write_code(folder: Path) -> None:
    """Write the two contract files of a model."""
    rules = PictureRules.model_validate(rules_of("letterbox-corner", 3))
    contract = Contract(
        task="detection", classes=CLASSES, input="input", picture=rules, output="scores+boxes", probabilities=True, detection=LIMITS
    )  # fmt: skip
    for name, text in contract_code(contract, targets_folder() / "mobile").items():
        (folder / name).write_text(text, encoding="utf-8")


def kotlin_command() -> tuple[list[str], str]:
    """Return the command of a Kotlin compiler, and the class path of Kotlin's library; skip if there is none."""
    spec = importlib.util.find_spec("run_kotlin_kernel")
    java = shutil.which("java")
    if java is None or spec is None or not spec.submodule_search_locations:
        pytest.skip("no Kotlin compiler: needs java and the package kotlin-jupyter-kernel (pip install --no-deps)")
    jars = Path(spec.submodule_search_locations[0]) / "jars"
    library = str(next(jars.glob("kotlin-stdlib-*.jar")))
    compiler = [
        java,
        "-cp",
        f"{jars}/*",
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
        "-no-stdlib",
        "-no-reflect",
        "-Werror",
    ]
    return [*compiler, "-classpath", library], library


def test_kotlin_does_what_the_reference_does(tmp_path: Path) -> None:
    compiler, library = kotlin_command()
    (tmp_path / "cases").mkdir()
    write_cases(tmp_path / "cases")
    write_code(tmp_path)
    sources = [str(tmp_path / "Contract.kt"), str(HERE / "Check.kt")]
    done = subprocess.run(
        [*compiler, *sources, "-d", str(tmp_path / "made")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    program = ["java", "-cp", f"{tmp_path / 'made'}{os.pathsep}{library}", "CheckKt", str(tmp_path / "cases")]
    subprocess.run(program, check=True)
    compare(tmp_path / "cases")


def swift_folder(tmp_path: Path) -> tuple[Path, Callable[[Path], str], list[str]]:
    """Return a folder to work in, the name of a path there for the compiler, and how commands are run; skip without a compiler."""
    root = os.environ.get("EDGEDISTILL_SWIFT")
    if root:
        work = Path(root) / "tmp" / tmp_path.name
        shutil.copytree(tmp_path, work, dirs_exist_ok=True)
        return work, lambda path: f"/{path.relative_to(root)}", ["chroot", root]
    if shutil.which("swiftc") is None:
        pytest.skip("no Swift compiler: needs swiftc, or EDGEDISTILL_SWIFT")
    return tmp_path, str, []


def test_swift_does_what_the_reference_does(tmp_path: Path) -> None:
    work, name, run = swift_folder(tmp_path)
    try:
        (work / "cases").mkdir()
        write_cases(work / "cases")
        write_code(work)
        shutil.copy(HERE / "main.swift", work)
        sources = [name(work / "Contract.swift"), name(work / "main.swift")]
        compile_command = [*run, "swiftc", "-O", "-warnings-as-errors", *sources, "-o", name(work / "made")]
        done = subprocess.run(compile_command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        subprocess.run([*run, name(work / "made"), name(work / "cases")], check=True)
        compare(work / "cases")
    finally:
        if work != tmp_path:
            shutil.rmtree(work)
