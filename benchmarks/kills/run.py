"""Kill commands of edgedistill at random moments, start them again, and compare what they make with what it is without kills.

python benchmarks/kills/run.py [--kills 306] [--seed 1] [--only SERIES] [--folder FOLDER] [--json FILE]

A kill is SIGKILL in 7 of 10 cases, otherwise SIGTERM, SIGINT or SIGHUP. The seed decides the signals and the moments as shares of the
time that the command takes; how far a command has come at a moment depends on the machine. After each kill, no process of the command
may be left, and each file that the manifest names must have its hash; when the command has ended, all results must be equal, bit for
bit, but for times, measurements and the files that an engine's compiler writes, and no unfinished file may be left. Exits with 1 for a
defect.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from commands import FoundError
from series import SERIES

from tests.support.forks import preload


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=306, help="the number of kills of all series together, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=sorted(SERIES))
    parser.add_argument("--folder", type=Path, help="where the series work; it is kept")
    parser.add_argument(
        "--json", type=Path, help="where the result is written; series that are not run keep their rows"
    )
    options = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        defects = 0
        for name in options.only or SERIES:
            series, share = SERIES[name]
            kills = max(1, round(share * options.kills / sum(count for _, count in SERIES.values())))
            start = time.monotonic()
            try:
                row = series(folder / name.replace(" ", "-"), kills, options.seed).row()
            except FoundError as error:
                defects += 1
                print(f"{name}: DEFECT: {error}", flush=True)
                continue
            print(f"{name}: {row} in {time.monotonic() - start:.0f} s", flush=True)
            if options.json is not None:
                rows = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
                options.json.write_text(
                    json.dumps(rows | {name: row | {"defects": 0}}, indent=1) + "\n", encoding="utf-8"
                )
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
