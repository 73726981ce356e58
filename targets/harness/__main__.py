"""The device-side program: probe a device, compile a model, check it and measure it.

Run as `python targets/harness VERB ...` or from inside a zip; needs Python 3.8, numpy and the kit's engine.
Every verb prints one JSON value as the last line of stdout. Exit codes: 0 fine, 2 usage, 5 the engine or an arm failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

import answers
import bench
import child
import disk
import energy
import examine
import facts
import job
import loading
import process
import text
import workers
from kit import EngineError, Session, engine_errors, load_engine

Answer = Tuple[Union[Dict[str, Any], List[Dict[str, Any]]], int]
"""The JSON value that a verb prints, and the exit code."""


def main() -> int:
    """Run one verb and return the exit code."""
    process.die_with_parent()
    # A terminated harness must still kill its workers, so SIGTERM raises an exception as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = _parser().parse_args()
    try:
        answer, code = arguments.run(arguments)
    except EngineError as error:
        answer, code = {"error": str(error)}, 5
    except job.JobError as error:
        answer, code = {"error": str(error)}, 2
    except OSError as error:
        answer, code = {"error": disk.failure(error)}, 5
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return _print(answer, code)


def _print(answer: Any, code: int) -> int:
    """Print the answer and return the exit code; where stdout cannot be written, say why on stderr."""
    try:
        sys.stdout.write("\n" + json.dumps(answer, allow_nan=False) + "\n")
        sys.stdout.flush()
    except OSError as error:
        sys.stderr.write(f"{disk.failure(error)}\n")
        sys.stderr.flush()
        os._exit(5)  # Python would try to write the rest of the answer when it ends, and report that too
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness", description="Compile, check and measure a model on this device.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    probe = verbs.add_parser("probe", help="describe this device and the kit's engine")
    probe.add_argument("--kit", type=Path)
    probe.set_defaults(run=_probe)
    look = verbs.add_parser("examine", help="report what on this device would disturb a measurement")
    look.set_defaults(run=_examine)
    build = verbs.add_parser("compile", help="compile an ONNX model for this device")
    build.add_argument("--kit", type=Path, required=True)
    build.add_argument("--model", type=Path, required=True)
    build.add_argument("--precision", required=True)
    build.add_argument("--threads", type=int, default=1)
    build.add_argument("--out", type=Path, required=True)
    build.set_defaults(run=_compile)
    judge = verbs.add_parser("check", help="check the arms of a job")
    judge.add_argument("job", type=Path)
    judge.set_defaults(run=_check)
    measure = verbs.add_parser("bench", help="check and measure the arms of a job")
    measure.add_argument("job", type=Path)
    measure.set_defaults(run=_bench)
    reply = verbs.add_parser("answer", help="answer pictures or texts with a compiled model as its contract says")
    reply.add_argument(
        "spec",
        type=Path,
        help="JSON: kit, kit_dir, entry, precision, threads, contract, out (.npz), and pictures (.npz), or texts with their tokenizer "
        "and, for a device without tokenizers, their tokens (.npz)",
    )
    reply.set_defaults(run=_answer)
    joules = verbs.add_parser("energy", help="compute energy per inference from a recorded power log")
    joules.add_argument("--source", choices=sorted(energy.LOGS), required=True)
    joules.add_argument("--log", type=Path, required=True)
    joules.add_argument(
        "--marks",
        type=Path,
        required=True,
        help="JSON file of before, windows, counts and after; times are on the log's clock",
    )
    joules.add_argument(
        "--interval-ms", type=int, default=500, help="milliseconds between the lines of a log without times"
    )
    joules.set_defaults(run=_energy)
    worker = verbs.add_parser("worker", help="internal: one fresh process of a bench")
    worker.add_argument("spec", type=Path)
    worker.set_defaults(run=_worker)
    return parser


def _probe(arguments: argparse.Namespace) -> Answer:
    answer = facts.device_facts()
    if arguments.kit is not None:
        try:
            engine = load_engine(arguments.kit.name, arguments.kit)
            with engine_errors(arguments.kit.name):
                answer["engine"] = engine.describe()
        except EngineError as error:
            answer["engine"] = {"error": str(error)}
    return answer, 0


def _examine(_arguments: argparse.Namespace) -> Answer:
    return examine.examine(), 0


def _energy(arguments: argparse.Namespace) -> Answer:
    try:
        series = energy.LOGS[arguments.source](arguments.log.read_text(encoding="utf-8"), arguments.interval_ms)
        marks = energy.Marks.read(json.loads(arguments.marks.read_text(encoding="utf-8")))
        return energy.figures(series, marks), 0
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise job.JobError(f"{arguments.log}, {arguments.marks}: {type(error).__name__}: {error}") from None
    except energy.NoSourceError as reason:
        return {"reason": str(reason)}, 0


def _compile(arguments: argparse.Namespace) -> Answer:
    engine = load_engine(arguments.kit.name, arguments.kit)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with engine_errors(arguments.kit.name):
        made = engine.compile(arguments.model, arguments.out, arguments.precision, arguments.threads)
        described = engine.describe()
    return dict(made, engine=described, facts=facts.device_facts()), 0


def _check(arguments: argparse.Namespace) -> Answer:
    results = bench.check(job.read_job(arguments.job))
    return results, 5 if any("error" in result for result in results) else 0


def _bench(arguments: argparse.Namespace) -> Answer:
    results = bench.run(job.read_job(arguments.job))
    return results, 5 if any("error" in result for result in results) else 0


def _answer(arguments: argparse.Namespace) -> Answer:
    spec = json.loads(arguments.spec.read_text(encoding="utf-8"))
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        engine.describe()
        session = loading.load_session(engine, spec)
    if "texts" in spec:
        answered, tokenized = _answer_texts(session, spec)
    else:
        pictures = list(loading.recorded(Path(spec["pictures"])).values())
        answered, tokenized = answers.answer_all(session, pictures, spec["contract"], spec["kit"]), False
    Path(spec["out"]).parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for number, one in enumerate(answered):
        arrays.update({f"{number}.request": one.request, f"{number}.answer": one.answer})
        arrays.update({f"{number}.output.{name}": values for name, values in one.outputs.items()})
    loading.store(Path(spec["out"]), arrays)
    return {"nanoseconds": [one.nanoseconds for one in answered], "tokenized": tokenized}, 0


def _answer_texts(session: Session, spec: Dict[str, Any]) -> Tuple[List[answers.Answered], bool]:
    """Return the answers of texts, and whether they were tokenized here; tokens are used where `tokenizers` is not installed."""
    contract, kit, tokens = spec["contract"], spec["kit"], spec.get("tokens")
    if text.is_available():
        try:
            tokenizer = text.load(Path(spec["tokenizer"]), contract["text"])
        except ValueError as error:
            raise EngineError(f"{kit}: {error}") from None
        return answers.answer_texts(session, spec["texts"], contract, kit, tokenizer), True
    if tokens is None:
        raise EngineError("texts need the package tokenizers on this device: python3 -m pip install tokenizers")
    prepared = list(loading.recorded(Path(tokens)).values())
    return answers.answer_texts(session, prepared, contract, kit, None), False


def _worker(arguments: argparse.Namespace) -> Answer:
    return workers.run(json.loads(arguments.spec.read_text(encoding="utf-8"))), 0


if __name__ == "__main__":
    # A worker process is started from the same folder or zip as this process.
    child.ENTRY = sys.path[0]
    sys.exit(main())
