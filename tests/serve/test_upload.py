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
    assert "/" not in file_name(upload, offer)
    assert ".." not in file_name(upload, offer)


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
        upload, offer, _ = read_upload(body, offered)
    except UploadError:
        return
    assert file_name(upload, offer).replace("-", "").isalnum()
    assert file_name(upload, offer).isascii()


def test_a_deep_nest_is_no_crash(offered: tuple[Offer, ...]) -> None:
    with pytest.raises(UploadError):
        read_upload(b"[" * 100_000, offered)


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
