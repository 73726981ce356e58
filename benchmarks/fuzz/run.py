"""Damaged inputs of each kind: edgedistill must read each, or refuse it with a sentence, in little time and memory.

python benchmarks/fuzz/run.py [--inputs 600] [--seed 0] [--only KIND] [--keep FOLDER] [--json FILE]

Each kind's inputs are made from sound files by the mutations of mutations.py, and are a function of the seed and their number. They
are read in a process with a limit of memory; each has a limit of time. An input is a defect if reading it ends in another error than
one with a sentence, in a signal, or in no time. --keep writes the defects' inputs into a folder.
"""

import argparse
import collections
import json
import multiprocessing
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kinds import KINDS
from mutations import mutated
from small_files import Files

MEMORY_BYTES = 3 << 30
"""The limit of what reading may take beside what the process has when it starts."""
SECONDS = 10


class SlowError(Exception):
    """Reading an input took longer than SECONDS."""


def made(examples: list[Files], seed: int, number: int) -> Files:
    """Return input `number` of a kind."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 - no secret
    files = dict(rng.choice(examples))
    name = rng.choice([name for name in files if not Path(name).name.startswith("_")])
    other = rng.choice(examples).get(name, files[name])
    files[name] = mutated(files[name], other, rng)
    return files


def place(files: Files, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def judged(kind: str, folder: Path) -> tuple[str, str]:
    """Read an input, and return whether it was "read", "refused" or a "defect", with the sentence or the place of the defect."""
    from edgedistill.errors import EdgedistillError
    from edgedistill.runtime.failures import failure_of

    signal.alarm(SECONDS)
    try:
        KINDS[kind].read(folder)
    except EdgedistillError as error:
        return "refused", str(error)
    except SlowError:
        return "defect", f"took longer than {SECONDS} s"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        if failure_of(error) is not None:
            return "refused", str(failure_of(error))
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/edgedistill/" in frame.filename] or frames
        return (
            "defect",
            f"{type(error).__name__} in {Path(ours[-1].filename).name}, {ours[-1].name}: {str(error)[:160]}",
        )
    else:
        return "read", ""
    finally:
        signal.alarm(0)


def _slow(_number: int, _frame: object) -> None:
    raise SlowError


def work(kind: str, seed: int, numbers: range, results: "multiprocessing.Queue") -> None:
    """Judge inputs, and put a row (number, outcome, text) into the queue before each and after each."""
    examples, folder = KINDS[kind].examples(), Path(tempfile.mkdtemp(prefix="fuzz-")) / "input"
    warnings.simplefilter("ignore")
    place(examples[0], folder)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    judged(kind, folder)  # imports what it needs, before the limits
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY_BYTES,) * 2)
    signal.signal(signal.SIGALRM, _slow)
    for number in numbers:
        results.put((number, "began", ""))
        place(made(examples, seed, number), folder)
        results.put((number, *judged(kind, folder)))
    shutil.rmtree(folder.parent, ignore_errors=True)


def outcomes(kind: str, seed: int, inputs: int) -> dict[int, tuple[str, str]]:
    """Judge all inputs of a kind in a process, and in a new one after each crash or hang."""
    found: dict[int, tuple[str, str]] = {}
    start = 0
    while start < inputs:
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        worker = context.Process(target=work, args=(kind, seed, range(start, inputs), results))
        worker.start()
        begun, seen = start, time.monotonic()
        while len(found) < inputs:
            try:
                number, outcome, text = results.get(timeout=1)
            except Exception:  # noqa: BLE001 - queue.Empty
                if worker.is_alive() and time.monotonic() - seen < 6 * SECONDS:
                    continue
                break
            seen = time.monotonic()
            begun = number
            if outcome != "began":
                found[number] = (outcome, text)
        worker.kill()
        worker.join()
        if len(found) < inputs:
            code = worker.exitcode or 0
            found[begun] = ("defect", f"the process ended with {signal.Signals(-code).name if code < 0 else code}")
        start = begun + 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=600, help="the number of inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=sorted(KINDS))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table, defects = {}, 0
    for kind in options.only or KINDS:
        found = outcomes(kind, options.seed, options.inputs)
        counts = collections.Counter(outcome for outcome, _ in found.values())
        causes = collections.Counter(text for outcome, text in found.values() if outcome == "defect")
        table[kind] = {"inputs": len(found), **{name: counts[name] for name in ("read", "refused", "defect")}}
        defects += counts["defect"]
        print(
            f"{kind}: {len(found)} inputs, {counts['read']} read, {counts['refused']} refused, {counts['defect']} defects",
            flush=True,
        )
        for text, count in causes.most_common():
            first = next(number for number, one in sorted(found.items()) if one == ("defect", text))
            print(f"  {count} times, first input {first}: {text}", flush=True)
        if options.keep is not None:
            for number in [number for number, (outcome, _) in found.items() if outcome == "defect"]:
                place(made(KINDS[kind].examples(), options.seed, number), options.keep / kind / str(number))
    if options.json is not None:
        options.json.write_text(json.dumps({"seed": options.seed, "kinds": table}, indent=1) + "\n")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
