"""How often a model is called different from itself (A/A), and slower ones are found (A/B).

Each comparison is a job of the product's harness at its default cost: a model, the same file again, and slower models, which take turns.
The verdicts are the product's own. The slower models are MLPerf Tiny's ResNet-8 with two extra 1x1 convolutions of as many channels as
come nearest to the wanted ratios when they are calibrated; their true ratio is that of all comparisons together.

    python benchmarks/latency/aa.py benchmarks/latency/aa/ort.json [--comparisons 100] [--neighbour] [--kit ort] [--pixels 32]
        [--processes 5] [--seconds 1] [--slower 1.02 1.05] [--continue]

With --continue, a series that was interrupted goes on, with the same models and the next seeds. A comparison without a processor and an engine
in the result had those of the comparison before.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from models import Slower, arm, build, export, geometric, measure

from edgedistill.deploy.onnx_file import BenchOptions
from edgedistill.records.measurement import Measurement
from edgedistill.statistics import speedup

CHANNELS = (1, 2, 4, 8, 16, 24, 32, 40, 64, 72, 80, 88)
CALIBRATING = 8
"""Sets of processes when the slower models are chosen."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--processes", type=int, default=BenchOptions().processes)
    parser.add_argument("--seconds", type=float, default=BenchOptions().seconds)
    parser.add_argument("--kit", choices=["openvino", "ort"], default="ort")
    parser.add_argument(
        "--pixels", type=int, default=32, help="the size of the images; 32 gives a model of about 0.2 ms"
    )
    parser.add_argument("--slower", type=float, nargs="+", default=[1.02, 1.05])
    parser.add_argument("--neighbour", action="store_true", help="another program works in random bursts on all CPUs")
    parser.add_argument("--continue", action="store_true", dest="continues", help="go on with the series in the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        arms = {n: arm(f"extra {n}", exported(n, options, folder), options.kit, "fp32") for n in (0, *CHANNELS)}
        found = continued(options) if options.continues else begun(options, arms, folder)
        chosen = found["extra_channels"]
        compared = [arms[0] | {"name": "base"}, arms[0] | {"name": "same"}]
        compared += [arms[n] | {"name": f"{wanted:g}"} for n, wanted in zip(chosen, options.slower, strict=True)]
        options.result.parent.mkdir(exist_ok=True)
        with neighbour() if options.neighbour else contextlib.nullcontext():
            for number in range(len(found["comparisons"]), options.comparisons):
                found["comparisons"].append(comparison(compared, options, folder, number))
                options.result.write_text(as_json(summed_up(found)), encoding="utf-8")
                sys.stderr.write(f"{number + 1}/{options.comparisons} {json.dumps(found['comparisons'][-1])}\n")
    print(json.dumps({key: found[key] for key in ("of", "called_different", "found", "true_ratios")}, indent=1))


def begun(options: argparse.Namespace, arms: dict[int, dict], folder: Path) -> dict:
    """Choose the slower models, and return a series without comparisons."""
    ratios = calibrated(arms, folder, options.seconds)
    chosen = [nearest(ratios, wanted) for wanted in options.slower]
    return settings_of(options) | {"calibration": ratios, "extra_channels": chosen, "comparisons": []}


def continued(options: argparse.Namespace) -> dict:
    """Return the series in the result; the options must be the same."""
    found = json.loads(options.result.read_text(encoding="utf-8"))
    other = {key: value for key, value in settings_of(options).items() if found[key] != value}
    if other:
        raise SystemExit(f"{options.result}: the series there has other options than {other}")
    return found | {"calibration": {int(n): ratio for n, ratio in found["calibration"].items()}}


def settings_of(options: argparse.Namespace) -> dict:
    """Return the options that decide what is measured."""
    return {key: value for key, value in vars(options).items() if key not in ("result", "comparisons", "continues")}


def exported(extra: int, options: argparse.Namespace, folder: Path) -> Path:
    model = Slower(extra).eval() if extra else build("resnet8")
    return export(model, options.pixels, options.kit, "fp32", folder / f"extra-{extra}")


def calibrated(arms: dict[int, dict], folder: Path, seconds: float) -> dict[int, float]:
    """Return how many times slower the model is with each number of extra channels but 0."""
    measured = measure(list(arms.values()), folder, CALIBRATING, seconds, 0)
    base = measured["extra 0"]
    return {n: 1 / speedup(base, measured[f"extra {n}"]).value for n in arms if n}


def nearest(ratios: dict[int, float], wanted: float) -> int:
    """Return the number of extra channels whose ratio comes nearest to the wanted one."""
    return min(ratios, key=lambda n: abs(math.log(ratios[n] / wanted)))


def comparison(arms: list[dict], options: argparse.Namespace, folder: Path, number: int) -> dict:
    """Measure all models once, and return the product's verdict on each beside the first."""
    begin = time.monotonic()
    measured = measure(arms, folder, options.processes, options.seconds, number)
    return compared_with_base(measured, begin)


def compared_with_base(measured: dict[str, Measurement], begin: float) -> dict:
    """Return the product's verdict on each model beside "base", and what it was measured with."""
    base = measured["base"]
    verdicts = {}
    for name in list(measured)[1:]:
        found = speedup(base, measured[name])
        assert found.duet
        verdicts[name] = [1 / found.value, 1 / found.ci95[1], 1 / found.ci95[0], found.verdict]
    undisturbed = base.latency_ns.undisturbed
    return {
        "verdicts": verdicts,
        "p50_us": base.latency_ns.p50 / 1000,
        "undisturbed": None if undisturbed is None else [undisturbed.p50 / 1000, undisturbed.share],
        "load_average": os.getloadavg()[0],
        "seconds": round(time.monotonic() - begin, 1),
        "cpu": base.device.cpu,
        "engine": base.device.engine.model_dump(),
    }


def summed_up(found: dict) -> dict:
    """Add how often the same model was called different, how often each slower one was found, and the true ratios."""
    done = [one["verdicts"] for one in found["comparisons"]]
    slower = [name for name in done[0] if name != "same"]
    found["of"] = len(done)
    found["called_different"] = sum(one["same"][3] in ("faster", "slower") for one in done)
    found["found"] = {name: sum(one[name][3] == "slower" for one in done) for name in slower}
    found["true_ratios"] = {name: geometric([one[name][0] for one in done]) for name in slower}
    return found


def as_json(found: dict) -> str:
    """Return the result with one comparison per line."""
    lines = ",\n  ".join(json.dumps(one) for one in found["comparisons"])
    rest = json.dumps({key: value for key, value in found.items() if key != "comparisons"}, indent=1)
    return f'{rest[:-2]},\n "comparisons": [\n  {lines}\n ]\n}}\n'


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Multiply matrices in random bursts on every CPU."""
    command = [sys.executable, str(Path(__file__).with_name("neighbour.py"))]
    cpus = sorted(os.sched_getaffinity(0))
    running = [subprocess.Popen([*command, str(cpu)]) for cpu in cpus]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


if __name__ == "__main__":
    main()
