"""Measure a model on a device without pip, from one file: python3 FILE.pyz probe|compile|check|bench|answer.

`edgedistill bundle` writes the file. The program verifies the file's content, compiles the model on this device, checks the
model against recorded outputs, measures it, and prints one JSON value on stdout; progress goes to stderr. Exit codes:
0 success, 2 wrong usage, a damaged file or a full disk, 4 a model disagrees with the exported model, 5 the engine failed.
"""

import argparse
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
import zlib
from typing import Any, Dict, List, Tuple

NEWEST, DAMAGED, DISAGREES, FAILED, INTERRUPTED = (3, 8), 2, 4, 5, 130
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "aarch64"}
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
BLOCK = 1 << 20
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, AttributeError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip
"""The errors of reading a damaged archive or manifest, among them an unknown compression and an encrypted member."""

Table = Dict[str, Any]
"""A JSON object. Type hints are evaluated here: Python 3.6 must be able to read this file, to report that it is too old."""


class BundleError(Exception):
    """The command failed; the text gives the reason, `code` is the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def main() -> int:
    """Run the command and return the exit code."""
    if sys.version_info < NEWEST:
        sys.stderr.write("Python {}.{} or newer is needed\n".format(*NEWEST))
        return DAMAGED
    for number in ENDING:  # SIGHUP comes when the SSH connection that started the program is lost
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda got, _frame: sys.exit(128 + got))
    arguments = parse_arguments()
    archive = os.path.dirname(os.path.abspath(__file__))
    try:
        answer, code = run(archive, arguments)
        json.dump(answer, sys.stdout, indent=2)
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BundleError as error:
        sys.stderr.write(f"{os.path.basename(archive)}: {error}\n")
        return error.code
    except OSError as error:
        sys.stderr.write(f"{os.path.basename(archive)}: {explained(error)}\n")
        return DAMAGED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return code


def run(archive: str, arguments: argparse.Namespace) -> Tuple[Table, int]:
    """Run a verb in a temporary folder; return its result and the exit code."""
    work = tempfile.mkdtemp(prefix="edgedistill-")
    try:
        held = lock(work)
        try:
            return Bundle(work, unpack(archive, work)).run(arguments)
        finally:
            if held is not None:
                held.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def explained(error: OSError) -> str:
    """Return what the operating system refused, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        step = f"free some space, or set TMPDIR to a folder on another disk (now {tempfile.gettempdir()})"
    else:
        step = "set TMPDIR and --out to folders that you can write"
    return f"{where}{(error.strerror or str(error)).lower()}; {step}"


def lock(folder: str) -> Any:
    """Lock a folder, so that edgedistill on this machine keeps it while this process lives; return the file that is locked."""
    try:
        import fcntl
    except ImportError:  # Windows has none
        return None
    file = open(os.path.join(folder, ".lock"), "w", encoding="ascii")  # noqa: SIM115 - open as long as the folder is used
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    name = os.path.basename(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(
        prog=name, description="Compile, check and measure the model in this file on this device."
    )
    parser.add_argument("verb", choices=("probe", "compile", "check", "bench", "answer"))
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="answer: the texts, or the two texts of a pair")
    parser.add_argument("--precision", action="append", help="only this precision; may be given several times")
    parser.add_argument(
        "--out",
        default=f"{os.path.splitext(name)[0]}-results",
        help="write results into this folder (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="number of threads of the engine")
    parser.add_argument("--processes", type=int, help="number of fresh processes per model")
    parser.add_argument("--seconds", type=float, help="seconds of steady inference in each")
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="MINUTES", help="minutes of sustained inference afterwards"
    )
    parser.add_argument("--encoding", help="use the int8 models of this encoding instead of this processor's")
    parser.add_argument("--requests", type=int, metavar="N", help="check only the first N recorded inputs")
    parser.add_argument(
        "--meter", metavar="CSV", help="CSV file that an external power meter writes during the measurement"
    )
    arguments = parser.parse_intermixed_args()  # texts may also follow options
    if bool(arguments.texts) != (arguments.verb == "answer"):
        parser.error("the verb 'answer' needs at least one text, and the other verbs take none")
    return arguments


def unpack(archive: str, folder: str) -> Table:
    """Extract a bundle into a folder and return its manifest; raise BundleError if any file was changed.

    The hashes detect damage and replaced files. They do not prove who made the bundle: anyone who can write this file can
    also write its hashes. To prove the origin, compare the hash of the whole file with the one that `edgedistill bundle`
    printed.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            return _unpack(packed, folder)
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: an offset in the archive is no position in the file
            raise
        raise refused(error) from None
    except UNREADABLE as error:
        raise refused(error) from None


def refused(why: object) -> BundleError:
    """Return the error for a bundle whose content was changed."""
    return BundleError(
        f"refused: the file was changed after it was packed: {why}; copy it again, or make a new bundle", DAMAGED
    )


def _unpack(packed: zipfile.ZipFile, folder: str) -> Table:
    text = packed.read("bundle.json")
    if packed.comment.decode("ascii", "replace") != hashlib.sha256(text).hexdigest():
        raise refused("bundle.json was changed")
    manifest: Table = json.loads(text.decode())
    names = [info.filename for info in packed.infolist()]
    wanted = set(manifest["files"]) | {"bundle.json"}
    odd = sorted(set(names) ^ wanted) or sorted({name for name in names if names.count(name) > 1})
    if odd:
        raise refused(f"{odd[0]} is missing or was added")
    for name in sorted(manifest["files"]):
        if name.startswith("/") or "\\" in name or {"", ".", ".."} & set(name.split("/")):
            raise refused(f"{name} points outside the bundle's folder")
        path = os.path.join(folder, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _extract(packed, name, path, manifest["files"][name])
    return manifest


def _extract(packed: zipfile.ZipFile, name: str, path: str, wanted: Table) -> None:
    if packed.getinfo(name).file_size != wanted["bytes"]:
        raise refused(f"{name} has the wrong size")
    digest = hashlib.sha256()
    with packed.open(name) as source, open(path, "wb") as target:
        for block in iter(lambda: source.read(BLOCK), b""):
            digest.update(block)
            target.write(block)
    if digest.hexdigest() != wanted["sha256"]:
        raise refused(f"{name} has the wrong content")


class Bundle:
    """The unpacked bundle in its work folder."""

    def __init__(self, work: str, manifest: Table) -> None:
        self.work, self.manifest, self.kit = work, manifest, "kits/{}".format(manifest["kit"])

    def run(self, arguments: argparse.Namespace) -> Tuple[Table, int]:
        """Run a verb; return its result and the exit code."""
        facts: Table = self.harness("probe", "--kit", self.kit)
        if arguments.verb == "probe":
            return facts, 0
        engine = facts["engine"]
        if "error" in engine:
            raise BundleError("{}; install it: {}".format(engine["error"], self.manifest["install"]), FAILED)
        models = self.chosen(facts, arguments)
        arms = {arm["name"]: arm for arm in self.manifest["job"]["arms"]}
        compiled = [self.compiled(arms[model["name"]], arguments) for model in models]
        if arguments.verb == "compile":
            return {"schema": "edgedistill.artifacts/1", "artifacts": [artifact for _, artifact in compiled]}, 0
        if arguments.verb == "answer":
            answers = [self.answered(arm, arguments.texts) for arm, _ in compiled]
            return {"schema": "edgedistill.answers/1", "answers": answers}, 0
        results = self.measured([arm for arm, _ in compiled], arguments)
        return self.judged(models, results, arguments.verb)

    def chosen(self, facts: Table, arguments: argparse.Namespace) -> List[Table]:
        """Return the models in the requested precisions, in the int8 encoding for this device and its engine."""
        arch = ARCHITECTURES.get(facts["arch"].lower(), facts["arch"])
        version = numbers(facts["engine"]["version"])
        forms = [form for form in self.manifest["forms"] if form["arch"] in (arch, None)]
        forms = [form for form in forms if numbers(form["from"]) <= (version or (0,))]
        if not forms:
            known = ", ".join(sorted({str(form["arch"]) for form in self.manifest["forms"]}))
            raise BundleError(
                f"kit '{self.manifest['kit']}' does not support processor '{arch}'; it supports {known}", DAMAGED
            )
        encoding = arguments.encoding or max(forms, key=lambda form: numbers(form["from"]))["encoding"]
        models: List[Table] = self.manifest["models"]
        requested = arguments.precision or list(dict.fromkeys(model["precision"] for model in models))
        chosen = [m for m in models if m["precision"] in requested and m["encoding"] in (None, encoding)]
        missing = [precision for precision in requested if precision not in [model["precision"] for model in chosen]]
        if missing:
            held = ", ".join(f"{model['precision']} ({model['encoding'] or 'float'})" for model in models)
            raise BundleError(f"the bundle has no {missing[0]} model for {arch} ({encoding}); it has {held}", DAMAGED)
        return chosen

    def compiled(self, arm: Table, arguments: argparse.Namespace) -> Tuple[Table, Table]:
        """Compile the model of an arm on this device; return the arm with the artifact as its entry, and the artifact."""
        name, threads = arm["name"], arguments.threads or arm["threads"]
        out = os.path.abspath(arguments.out) if arguments.verb == "compile" else self.work
        folder = os.path.join(out, "artifacts", name)
        sys.stderr.write(f"compile {name}\n")
        made = self.harness(
            "compile", "--kit", self.kit, "--model", arm["entry"], "--precision", arm["precision"],
            "--threads", str(threads), "--out", folder,
        )  # fmt: skip
        size = sum(os.path.getsize(os.path.join(folder, file)) for file in made["files"])
        artifact = {"name": name, "precision": arm["precision"], "folder": folder, "size_bytes": size}
        artifact.update({key: made[key] for key in ("entry", "files", "extras", "engine")})
        return dict(arm, threads=threads, entry=os.path.join(folder, made["entry"]), size_bytes=size), artifact

    def answered(self, arm: Table, texts: List[str]) -> Table:
        """Answer texts with a compiled model; raises BundleError for a model that takes no texts."""
        rules = (arm.get("contract") or {}).get("text")
        if rules is None:
            raise BundleError("answer: the model in this file takes no texts", DAMAGED)
        if rules["texts"] > 1 and len(texts) != rules["texts"]:
            raise BundleError(
                "answer: the model takes {} texts at once, not {}".format(rules["texts"], len(texts)), DAMAGED
            )
        spec = {key: arm[key] for key in ("kit", "kit_dir", "entry", "precision", "threads", "contract")}
        spec["texts"] = [texts] if rules["texts"] > 1 else [[text] for text in texts]
        spec.update(tokenizer="models/{}".format(rules["tokenizer"]), out="answers.npz")
        with open(os.path.join(self.work, "spec.json"), "w", encoding="utf-8") as file:
            json.dump(spec, file)
        self.harness("answer", "spec.json")
        import numpy as np  # the harness has checked that numpy is here

        with np.load(os.path.join(self.work, "answers.npz")) as arrays:
            found = [arrays["{}.answer".format(i)].tolist() for i in range(len(spec["texts"]))]
        classes = arm["contract"]["classes"] if arm["contract"]["task"] == "classification" else None
        return {"name": arm["name"], "classes": classes, "texts": spec["texts"], "answers": found}

    def measured(self, arms: List[Table], arguments: argparse.Namespace) -> List[Table]:
        """Run the bundle's job with these arms and the options of the command line; return a result for each arm."""
        job = dict(
            self.manifest["job"], arms=arms, out=os.path.abspath(arguments.out), soak_seconds=60 * arguments.soak
        )
        options = {
            "processes": arguments.processes, "seconds": arguments.seconds, "requests": arguments.requests,
            "meter": os.path.abspath(arguments.meter) if arguments.meter else None,
        }  # fmt: skip
        job.update({key: value for key, value in options.items() if value})
        with open(os.path.join(self.work, "job.json"), "w", encoding="utf-8") as file:
            json.dump(job, file)
        results: List[Table] = self.harness(arguments.verb, "job.json")
        return results

    def judged(self, models: List[Table], results: List[Table], verb: str) -> Tuple[Table, int]:
        """Return the JSON value to print, and the exit code."""
        errors = {result["name"]: result["error"] for result in results if "error" in result}
        fine = [result for result in results if "error" not in result]
        for name, text in errors.items():
            sys.stderr.write(f"{name}: {text}\n")
        least = {model["name"]: model["min_agreement"] for model in models}
        wrong = []
        for result in fine:
            parity = result["measurement" if verb == "bench" else "check"]["parity"]
            if parity is not None and parity["agreement"] is not None and parity["agreement"] < least[result["name"]]:
                wrong.append(result["name"])
                sys.stderr.write(
                    f"{result['name']}: the agreement with the exported model is {parity['agreement']:.2%}{worst(parity)}, "
                    f"at least {least[result['name']]:.1%} is required; do not ship it\n"
                )
        if verb == "check":
            answer = {"schema": "edgedistill.checks/1", "checks": fine, "errors": errors}
        else:
            measurements = [result["measurement"] for result in fine]
            answer = {"schema": "edgedistill.measurements/1", "measurements": measurements, "errors": errors}
        return answer, FAILED if errors else DISAGREES if wrong else 0

    def harness(self, verb: str, *arguments: str) -> Any:
        """Run a verb of the harness in its own process, and return its result."""
        command = [sys.executable, os.path.join(self.work, "harness"), verb, *arguments]
        environment = dict(os.environ, EDGEDISTILL_PARENT=str(os.getpid()), TMPDIR=self.work)
        child = subprocess.Popen(
            command, cwd=self.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
        )
        try:
            out, _ = child.communicate()
        finally:
            child.terminate()
            child.wait()
        try:
            answer = json.loads(out.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1])
        except ValueError:
            hint = "; the harness needs numpy as well as the engine" if verb == "probe" else ""
            raise BundleError(f"{verb} ended with exit code {child.returncode}{hint}", FAILED) from None
        if isinstance(answer, dict) and "error" in answer:
            raise BundleError(answer["error"], child.returncode)
        return answer


def worst(parity: Table) -> str:
    """Return the output that agrees least, if there are several outputs."""
    outputs = {name: one for name, one in parity.get("outputs", {}).items() if one["agreement"] is not None}
    return " (output '{}')".format(min(outputs, key=lambda name: outputs[name]["agreement"])) if outputs else ""


def numbers(version: str) -> Tuple[int, ...]:
    """Return the leading numbers of a version: "10.3.0+jetson" is (10, 3, 0)."""
    parts: List[int] = []
    for part in version.split("+", maxsplit=1)[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


if __name__ == "__main__":
    sys.exit(main())
