"""Whatever a page sends is a checked upload or an UploadError, and never anything else."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedistill.runtime.folder import Run
from edgedistill.serve.offer import Offer, offers
from edgedistill.serve.runtime import read_web_kit
from edgedistill.serve.store import file_name
from edgedistill.serve.upload import UploadError, read_upload
from tests.support.uploads import upload_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def offered(run: Path) -> tuple[Offer, ...]:
    return offers(Run(run), read_web_kit())


def paths(value: Any, at: tuple = ()) -> list[tuple]:
    """Return the way to every part of an upload, but to single samples of long lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [at, *(path for key, part in inner for path in paths(part, (*at, key)))]


def replaced(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = replaced(value[path[0]], path[1:], new)
    return value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data(), new=JSON)
def test_a_part_that_is_something_else(offered: tuple[Offer, ...], data: st.DataObject, new: Any) -> None:
    good = upload_of(offered[0])
    path = data.draw(st.sampled_from(paths(good)))
    body = json.dumps(replaced(good, path, new)).encode()
    try:
        upload, offer, outputs = read_upload(body, offered)
    except UploadError:
        return
    assert offer in offered
    assert set(outputs) == {block.name for block in offer.summary.requests.outputs}
    assert "/" not in file_name(upload)
    assert ".." not in file_name(upload)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(body=st.binary(max_size=200))
def test_any_bytes(offered: tuple[Offer, ...], body: bytes) -> None:
    with pytest.raises(UploadError):
        read_upload(body, offered)


@given(name=st.text(min_size=1, max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_a_name_never_leaves_the_folder(offered: tuple[Offer, ...], name: str) -> None:
    good = upload_of(offered[0])
    body = json.dumps(good | {"device": good["device"] | {"name": name}}).encode("utf-8", "surrogatepass")
    try:
        upload, _, _ = read_upload(body, offered)
    except UploadError:
        return
    assert file_name(upload).replace("-", "").isalnum()
    assert file_name(upload).isascii()


def test_a_deep_nest_is_no_crash(offered: tuple[Offer, ...]) -> None:
    with pytest.raises(UploadError):
        read_upload(b"[" * 100_000, offered)


@pytest.mark.parametrize(
    ("bursts", "reason"),
    [
        ([(0, 60, 3)], None),
        ([(0, 40, 1), (2, 19, 2)], "latency_ns: 60 samples, but 59 in bursts"),
        ([(0, 40, 1), (2, 20, 1)], "lead_ns: 3 samples, but 2 in bursts"),
        ([(0, 40, 3), (2, 20, 0)], "lead_n"),
        ([(2, 40, 1), (2, 20, 2)], "at most one burst in a round"),
        ([], "bursts"),
    ],
)
def test_bursts_have_all_samples(offered: tuple[Offer, ...], bursts: list[tuple], reason: str | None) -> None:
    good = upload_of(offered[0])
    sent = [{"round": turn, "n": n, "lead_n": lead_n} for turn, n, lead_n in bursts]
    processes = [process | {"bursts": sent} for process in good["processes"]]
    body = json.dumps(good | {"processes": processes}).encode()
    if reason is None:
        assert read_upload(body, offered)[0].processes[0].bursts[0].n == 60
    else:
        with pytest.raises(UploadError, match=reason):
            read_upload(body, offered)


def test_ratios_are_of_every_set_and_of_models_in_turns(offered: tuple[Offer, ...]) -> None:
    def sent(ratios: dict, alone: str | None = None) -> bytes:
        return json.dumps(upload_of(offered[0], duet={"id": "ab" * 16, "ratios": ratios}, alone=alone)).encode()

    assert read_upload(sent({"other-wasm-1t": [1.0, None, 2.0]}), offered)[0].duet.ratios == {
        "other-wasm-1t": (1.0, None, 2.0)
    }
    assert read_upload(sent({}, "no memory"), offered)[0].alone == "no memory"
    with pytest.raises(UploadError, match="2 ratios instead of one for each of 3"):
        read_upload(sent({"other-wasm-1t": [1.0, 2.0]}), offered)
    with pytest.raises(UploadError, match=r"duet\.ratios\.other-wasm-1t\.0"):
        read_upload(sent({"other-wasm-1t": [0.0, 2.0, 1.0]}), offered)
    with pytest.raises(UploadError, match="must be empty"):
        read_upload(sent({"other-wasm-1t": [1.0, 1.0, 2.0]}, "no memory"), offered)


def test_the_offers_are_the_students_and_the_teacher_with_their_requests(offered: tuple[Offer, ...]) -> None:
    summary = [
        (one.summary.key, one.summary.encoding, one.summary.requests.count, one.summary.requests.total)
        for one in offered
    ]
    encoding = next(one.summary.encoding for one in offered if one.summary.precision == "int8")
    assert summary == [
        ("student-fp32", None, 360, 360),
        ("student-int8", encoding, 360, 360),
        ("teacher-fp32", None, 360, 360),
    ]
    assert encoding in read_web_kit().encoding
    for one in offered:
        assert len(one.requests) == max(
            block.offset + block.bytes for block in (*one.summary.requests.inputs, *one.summary.requests.outputs)
        )
