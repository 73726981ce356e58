"""Plant faults, run the command that meets each, and write what was said and the exit code: result.json and table.md.

python benchmarks/faults/run.py [FOLDER] [--only WORDS]     exits with 1 if a fault was not reported, or with another exit code
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from faults_of_caches import FAULTS as CACHES
from faults_of_data import FAULTS as DATA
from faults_of_labels import FAULTS as LABELS
from faults_of_models import FAULTS as MODELS
from faults_of_teachers import FAULTS as TEACHERS
from planted import Fault

from edgedistill import __version__

FAULTS = (*DATA, *LABELS, *TEACHERS, *MODELS, *CACHES)
SECONDS = 300
"""A command that takes longer is ended, and counts as a failure."""


class Outcome(NamedTuple):
    """What a command printed, its exit code, and what `doctor` printed."""

    fault: Fault
    code: int
    output: str
    doctor: str | None

    @property
    def said(self) -> str:
        """The line with the words that the fault must be reported by, of an error the last one; without such a line, the last line."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        found = [line for line in lines if self.fault.says in line]
        return _shorten((found or lines or [""])[0 if found and self.code == 0 else -1])

    @property
    def wrong(self) -> str | None:
        """Why the outcome is not the right one, or None."""
        if "Traceback" in self.output:
            return "a traceback was printed"
        if self.code != self.fault.code:
            return f"the exit code is {self.code}, not {self.fault.code}"
        if self.fault.says not in self.output:
            return f"the output lacks '{self.fault.says}'"
        if self.doctor is not None and self.fault.says not in self.doctor:
            return f"the output of doctor lacks '{self.fault.says}'"
        return None


def _shorten(line: str) -> str:
    return re.sub(r"\s+", " ", line.removeprefix("edgedistill: ")).strip()


def outcome_of(fault: Fault) -> Outcome:
    """Plant a fault in an empty folder, and run its command there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fault.make(folder)
        doctor = _run("doctor edgedistill.toml", folder)[1] if fault.doctor else None
        for step in fault.before:
            if isinstance(step, str):
                _run(step, folder)
            else:
                step(folder)
        code, output = _run(fault.command, folder)
        return Outcome(fault, code, output.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", ""), doctor)


def _run(command: str, folder: Path) -> tuple[int, str]:
    variables = os.environ | {"OMP_NUM_THREADS": "1", "EDGEDISTILL_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "edgedistill", *command.split()],
        cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    return done.returncode, done.stderr + done.stdout


def main() -> int:
    """Run all faults, two at a time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument(
        "--only", default="", help="only faults whose kind or description has these words; the other rows are kept"
    )
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if options.only in f"{fault.kind}: {fault.planted}"]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(outcome_of, faults))
    for one in outcomes:
        if one.wrong:
            print(f"{one.fault.kind}: {one.fault.planted}: {one.wrong}\n{one.output}\n")
    _write(options.folder, outcomes)
    return int(any(one.wrong for one in outcomes))


def _write(folder: Path, outcomes: list[Outcome]) -> None:
    file = folder / "result.json"
    before = json.loads(file.read_text(encoding="utf-8"))["faults"] if file.exists() else []
    now = [
        {"kind": one.fault.kind, "planted": one.fault.planted, "command": one.fault.command, "exit_code": one.code, "said": one.said}
        for one in outcomes
    ]  # fmt: skip
    known = {(row["kind"], row["planted"]): row for row in (*before, *now)}
    rows = [known[key] for fault in FAULTS if (key := (fault.kind, fault.planted)) in known]
    table = {"schema": "edgedistill.faults/1", "version": __version__, "faults": rows}
    file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    lines = ["| kind | planted | exit code | what is said |", "|---|---|---|---|"]
    lines += [
        f"| {row['kind']} | {row['planted']} | {row['exit_code']} | {str(row['said']).replace('|', '/')} |"
        for row in rows
    ]
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
