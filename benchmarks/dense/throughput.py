"""How much faster a detector is distilled from cached soft labels than from an online teacher, at equal epochs, on BCCD.

python benchmarks/dense/throughput.py TEACHER.safetensors [--width 1.5] [--epochs 24] [--pairs 2] [--json FILE]

The two ways take turns. A time is that of the stages soft_labels and distill together; the online teacher (views = 0) has no soft labels.
Both ways train on the same number of views, and run the same validation after each epoch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = Path(__file__).with_name("bccd.toml")


def seconds(options: argparse.Namespace, views: int) -> dict[str, float]:
    """Distil once in an empty folder, with an empty cache of soft labels, and return the seconds of the two stages."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "teacher.weights": options.teacher.resolve(), "teacher.width": options.width, "distill.epochs": options.epochs,
            "distill.views": views, "distill.control": "false", **dict(one.split("=", 1) for one in options.set),
        }  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "edgedistill",
            "run",
            str(CONFIG),
            "--until",
            "distill",
            "--run-dir",
            f"{folder}/run",
        ]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run(command, check=True, env=os.environ | {"EDGEDISTILL_CACHE": f"{folder}/cache"})
        stages = json.loads(Path(folder, "run", "manifest.json").read_text())["stages"]
    return {name: stages[name]["seconds"] for name in ("soft_labels", "distill") if name in stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--width", default="1.5")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pairs = []
    for _ in range(options.pairs):
        pairs.append({"cached": seconds(options, options.views), "online": seconds(options, 0)})
        ratio = sum(pairs[-1]["online"].values()) / sum(pairs[-1]["cached"].values())
        print(f"cached {pairs[-1]['cached']}, online {pairs[-1]['online']}: {ratio:.2f} times as fast", flush=True)
    if options.json:
        result = {"teacher_width": options.width, "epochs": options.epochs, "views": options.views, "pairs": pairs}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
