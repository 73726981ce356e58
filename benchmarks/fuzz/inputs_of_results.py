"""Sound measurements, run folders, cards, kits, uploads and what devices send, and how they are read."""

import contextlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from small_files import REPOSITORY, Files, arrays

from edgedistill.records.bench_job import Arm

if TYPE_CHECKING:
    from edgedistill.serve.offer import Offer


@cache
def results() -> list[Path]:
    return [
        path for path in sorted((REPOSITORY / "benchmarks").glob("*/result/*.json")) if path.name != "manifest.json"
    ][:12]


def unsealed(path: Path) -> bytes:
    """Return a measurement without its hashes, so that a damaged copy is not refused because of them alone."""
    table = json.loads(path.read_bytes())
    return json.dumps({key: table[key] for key in table if key not in ("sha256", "samples_sha256")}).encode()


def measurements() -> list[Files]:
    return [{"one.json": unsealed(path), "_two.json": unsealed(results()[0])} for path in results()]


def compare_measurements(folder: Path) -> object:
    from edgedistill.compare.comparison import compare_runs
    from edgedistill.compare.load import load_results
    from edgedistill.compare.markdown import to_markdown

    first, second = load_results([folder / "one.json", folder / "_two.json"])
    return to_markdown(compare_runs(first, [second]))


def run_folders() -> list[Files]:
    manifest = REPOSITORY / "benchmarks/cifar10/result/manifest.json"
    return [{"manifest.json": manifest.read_bytes(), "measurements/one.json": unsealed(path)} for path in results()[:4]]


def read_run(folder: Path) -> object:
    from edgedistill.compare.load import load_run

    return load_run(folder)


def cards() -> list[Files]:
    """Return cards whose seals fit any content: the seal is made anew before a card is read, as who forges a card would."""
    return [{"card.json": path.read_bytes()} for path in sorted(Path(__file__).parent.glob("card*.json"))]


def read_a_card(folder: Path) -> object:
    from edgedistill.card.card import read_card
    from edgedistill.runtime.files import seal_of

    path = folder / "card.json"
    try:
        table = json.loads(path.read_bytes())
        path.write_text(json.dumps(table | {"sha256": seal_of(table)}))
    except (ValueError, TypeError, RecursionError):
        pass  # it stays as it is
    return read_card(path)


def kits() -> list[Files]:
    return [
        {"kit/target.toml": path.read_bytes(), "kit/engine.py": b""}
        for path in sorted((REPOSITORY / "targets").glob("[!w]*/target.toml"))
    ]


def read_a_kit(folder: Path) -> object:
    from edgedistill.kits.kits import read_kit

    return read_kit(folder / "kit")


def device_outputs() -> list[Files]:
    facts = json.loads(results()[0].read_bytes())["device"]
    engine = facts.pop("engine")
    facts.pop("address")
    made = {"entry": "model.ort", "files": ["model.ort"], "extras": [], "engine": engine, "facts": facts}
    return [{"out": json.dumps(one).encode(), "_model.ort": b""} for one in (made, facts | {"engine": engine})]


def read_answer(folder: Path) -> object:
    """Read what the harness prints on a device: the answers to `compile`, `probe` and `examine`."""
    from edgedistill.deploy import device_answers
    from edgedistill.deploy.devices.transport import Finished
    from edgedistill.errors import DeviceError

    (folder / "_model.ort").rename(folder / "model.ort")
    answer = device_answers.answer_of(
        "device", Finished(0, (folder / "out").read_bytes().decode("utf-8", "replace"), "")
    )
    table = device_answers.object_of("device", answer)
    if "entry" in table:
        return device_answers.compiled_of("device", table, folder)
    with contextlib.suppress(DeviceError):
        device_answers.examined_of("device", table)
    return device_answers.facts_of("device", table), device_answers.engine_of("device", table.get("engine"))


@cache
def arm_and_samples() -> tuple[Arm, bytes, bytes]:
    """Return an arm, and the measurement of it with the raw samples that a device would return."""
    import numpy as np

    table = json.loads(results()[0].read_bytes())
    latencies = np.repeat([one["p50_ns"] for one in table["processes"]], 5)
    process = np.repeat(np.arange(len(table["processes"])), 5)
    for one in table["processes"]:
        one["n"] = one["n_clean"] = 5
    table["samples"] = "one.npz"
    table.pop("samples_sha256", None)
    arm = Arm(
        name="one", target=table["target"], address=table["device"]["address"], kit=table["kit"], kit_dir="", threads=table["threads"],
        precision=table["precision"]["requested"], entry="", files=(), size_bytes=table["size_bytes"], model=table["model"], io="",
        expected=None, metric=None,
    )  # fmt: skip
    samples = arrays(latency_ns=latencies, process=process, preempted=np.zeros(len(process), bool))
    return arm, json.dumps(table).encode(), samples


def returned_measurements() -> list[Files]:
    _, table, samples = arm_and_samples()
    return [{"one.json": table, "_one.npz": samples}, {"_one.json": table, "one.npz": samples}]


def read_returned(folder: Path) -> object:
    """Read a measurement that a device returned, as it is read before it is kept."""
    from edgedistill.deploy.device_answers import measurement_of

    for path in folder.glob("_*"):
        path.rename(folder / path.name.removeprefix("_"))
    return measurement_of("device", arm_and_samples()[0], folder)


def agent_messages() -> list[Files]:
    import hashlib

    content = b"{}" * 20
    digest = hashlib.sha256(content).hexdigest()
    events = [
        {"event": "hello", "python": "3.11"}, {"event": "missing", "hashes": []}, {"event": "line", "text": "bench one check done"},
        {"event": "file", "name": "measurements/one.json", "sha256": digest, "bytes": len(content)},
    ]  # fmt: skip
    start = b"".join(json.dumps(one).encode() + b"\n" for one in events) + content
    end = {"event": "exit", "code": 0, "names": ["measurements/one.json"], "bytes": 2}
    whole = start + json.dumps(end).encode() + b"\n[]"
    return [{"messages": whole}, {"messages": b"Welcome\n" + whole}]


def read_messages(folder: Path) -> object:
    """Read what an agent sends over a connection, and the file that it returns."""
    import asyncio

    from edgedistill.deploy.devices.agent import Agent
    from edgedistill.deploy.devices.transport import HarnessCall

    async def run() -> object:
        reader = asyncio.StreamReader()
        reader.feed_data((folder / "messages").read_bytes())
        reader.feed_eof()
        names = frozenset({"measurements/one.json"})
        call = HarnessCall(("bench",), {}, returns={"measurements": folder / "measurements"}, names=names)
        return await Agent(reader, Sink()).run(call, None, lambda _: None)

    return asyncio.run(run())


class Sink:
    """What the host sends, which this agent ignores."""

    def write(self, _data: bytes) -> None:
        pass

    async def drain(self) -> None:
        pass


@cache
def offer() -> "Offer":
    """Return a model as the page is offered it."""
    from edgedistill.records.measurement import ModelIdentity
    from edgedistill.serve.offer import Block, ModelSummary, Offer, Requests

    block = Block(name="y", dtype="float32", shape=(1, 4), offset=0, bytes=128)
    requests = Requests(count=8, total=8, inputs=(), outputs=(block,))
    summary = ModelSummary(
        key="student-fp32", title="student", name="student", precision="fp32", encoding=None, sha256="0" * 64, bytes=1,
        metric="accuracy", output="y", min_agreement=0.9, requests=requests,
    )  # fmt: skip
    identity = ModelIdentity(name="student", sha256="0" * 64)
    return Offer(summary, Path("student.onnx"), bytes(128), identity, Path("io.npz"), "expected")


def uploads() -> list[Files]:
    sys.path.insert(0, str(REPOSITORY))
    from tests.support.uploads import upload_of

    return [{"upload.json": json.dumps(upload_of(offer())).encode()}]


def read_an_upload(folder: Path) -> object:
    from edgedistill.errors import ConfigError
    from edgedistill.serve.upload import UploadError, read_upload

    try:
        return read_upload((folder / "upload.json").read_bytes(), (offer(),))
    except UploadError as error:  # which the server answers with, as code 400
        raise ConfigError(str(error)) from None


def energy_logs() -> list[Files]:
    recorded = REPOSITORY / "tests/targets/recorded"
    return [
        {"log": path.read_bytes()}
        for path in sorted(recorded.rglob("*"))
        if path.is_file() and path.stat().st_size < 100_000
    ]


def read_log(folder: Path) -> object:
    sys.path.insert(0, str(REPOSITORY / "targets/harness"))
    import energy

    text = (folder / "log").read_bytes().decode("utf-8", "replace")
    for parse in energy.LOGS.values():
        with contextlib.suppress(KeyError, ValueError, TypeError, energy.NoSourceError):  # which the harness reports
            parse(text, 100)
    return text
