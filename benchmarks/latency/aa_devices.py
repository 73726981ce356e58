"""The comparisons of aa.py by the other ways to measure: over SSH, on a real sshd on the loopback, and with a bundle.

Each comparison is a job at the product's default cost: a model, the same file again, and one with two more layers, whose number of
channels comes nearest to 5 % when it is calibrated. Over SSH, the models are compiled and measured as by `edgedistill bench BASE.onnx
SAME.onnx SLOWER.onnx --device ssh://...`. The bundle is one file with these three models, which Python runs: `python bundle.pyz bench`.
The two ways take turns, so that both see the same minutes.

    python benchmarks/latency/aa_devices.py benchmarks/latency/aa [--comparisons 20]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from aa import as_json, calibrated, compared_with_base, nearest, summed_up
from models import SIZES, Slower, arm, build, export

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY))  # tests/support has the sshd

from edgedistill.deploy.bundle import BundledModel, pack  # noqa: E402
from edgedistill.deploy.onnx_file import BenchOptions, PreparedModel, bench_on_kits, prepare_models  # noqa: E402
from edgedistill.kits.kits import find_kits  # noqa: E402
from edgedistill.records.bench_job import Arm, BenchJob  # noqa: E402
from edgedistill.records.measurement import Measurement, ModelIdentity  # noqa: E402
from tests.support.sshd import Sshd  # noqa: E402

WANTED = 1.05
CHANNELS = (64, 72, 80, 88)
KIT = "ort"
SLOWER = f"{WANTED:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the folder of ssh.json and bundle.json")
    parser.add_argument("--comparisons", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = {
            n: export(Slower(n).eval() if n else build("resnet8"), SIZES["resnet8"], KIT, "fp32", folder / f"extra-{n}")
            for n in (0, *CHANNELS)
        }
        arms = {n: arm(f"extra {n}", path, KIT, "fp32") for n, path in models.items()}
        ratios = calibrated(arms, folder, BenchOptions().seconds)
        extra = nearest(ratios, WANTED)
        prepared = prepare_models(
            {"base": models[0], "same": models[0], SLOWER: models[extra]}, folder / "prepared", {}
        )
        bundle = folder / "bundle.pyz"
        write_bundle(prepared, bundle)
        device = Sshd(folder / "sshd")
        os.environ.update(device.environment)
        try:
            ways = {"ssh": lambda: over_ssh(prepared, device.url, folder / "ssh"), "bundle": lambda: by_bundle(bundle)}
            compare_all(ways, {"kit": KIT, "calibration": ratios, "extra_channels": extra}, options)
        finally:
            device.close()


def compare_all(ways: dict, about: dict, options: argparse.Namespace) -> None:
    """Compare by each way in turns, and write the result of each way after each comparison."""
    found = {way: {"way": way, **about, "comparisons": []} for way in ways}
    for number in range(options.comparisons):
        for way, measure in ways.items():
            begin = time.monotonic()
            one = compared_with_base(measure(), begin)
            found[way]["comparisons"].append(one)
            (options.results / f"{way}.json").write_text(as_json(summed_up(found[way])), encoding="utf-8")
            sys.stderr.write(f"{way} {number + 1}/{options.comparisons} {json.dumps(one)}\n")


def over_ssh(prepared: Sequence[PreparedModel], address: str, folder: Path) -> dict[str, Measurement]:
    """Compile and measure the models over SSH, in one job."""
    options = BenchOptions(device=address, passes=())
    results = bench_on_kits(prepared, [find_kits()[KIT]], options, folder, lambda _line: None)
    failed = [result for _, _, result in results if isinstance(result, str)]
    if failed:
        raise SystemExit("\n".join(failed))
    return {name: result for name, _, result in results}


def by_bundle(bundle: Path) -> dict[str, Measurement]:
    """Run the bundle in its own folder, as on a device, and read the measurements that it prints."""
    done = subprocess.run(
        [sys.executable, bundle.name, "bench"], cwd=bundle.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{bundle.name}: exit code {done.returncode}: {done.stderr}")
    measurements = [Measurement.model_validate(one) for one in json.loads(done.stdout)["measurements"]]
    return {one.model.name: one for one in measurements}


def write_bundle(prepared: Sequence[PreparedModel], path: Path) -> None:
    """Write a bundle of the models, in the format of `edgedistill bundle`, which packs one student in its precisions."""
    kit, defaults = find_kits()[KIT], BenchOptions()
    arms = tuple(
        Arm(
            name=one.name, target=KIT, address="bundle", kit=KIT, kit_dir=f"kits/{KIT}", precision="fp32", threads=1,
            entry=f"models/{one.name}.onnx", files=(), size_bytes=one.model.stat().st_size,
            model=ModelIdentity(name=one.name, sha256=one.sha256), io=f"io/{one.name}.npz", expected=one.expected, metric=None,
            reasons={"accuracy": "the inputs are random"},
        )
        for one in prepared
    )  # fmt: skip
    job = BenchJob(arms=arms, processes=defaults.processes, seconds=defaults.seconds, passes=())
    models = tuple(
        BundledModel(name=one.name, precision="fp32", encoding=None, min_agreement=0.995) for one in prepared
    )
    sources = {f"models/{one.name}.onnx": one.model for one in prepared}
    sources |= {f"io/{one.name}.npz": one.io for one in prepared}
    pack("aa", kit, job, models, sources, path)


if __name__ == "__main__":
    main()
