"""A phone that floods or lies ends in a sentence, in bounded memory, and leaves no measurement and no file behind."""

import asyncio
import json
import re
import shutil
import sys

import pytest

from edgedistill.deploy.devices.adb import Phone
from edgedistill.deploy.devices.address import parse_address
from edgedistill.deploy.harness import examine, probe, run_bench
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import read_kit
from edgedistill.records.plain_text import ONE_LINE
from tests.support.jobs import bench_job
from tests.support.memory import peak_bytes_of
from tests.support.phones import ORT, compiled, url

MOST_BYTES = 200_000_000
"""What a phone may make the host take."""
LIAR = """#!/bin/sh
here=$(dirname "$0") verb=$1
for last; do :; done
{behaviour}
exec "$here/sound" "$@"
"""


@pytest.fixture
def liar(runner, tmp_path):
    """Return a function that makes a runner which behaves like the sound one but for some shell commands before."""
    folder = tmp_path / "liar"
    shutil.copytree(runner, folder)
    (folder / "edrun").rename(folder / "sound")

    def behave(behaviour):
        (folder / "edrun").write_text(LIAR.format(behaviour=behaviour))
        (folder / "edrun").chmod(0o755)
        return folder

    return behave


def benched(phone, models, runner, folder):
    """Bench a model on the phone; return its result, which is a measurement or an error."""
    arm = compiled(models, "fp32", folder / "made", url(phone, runner))
    ((_, result),) = run_bench(bench_job(arm, processes=2, seconds=0.05, passes=()), folder, print)
    return result


SOUND = {"type": 1, "shape": [1, 5], "name": "y"}


def sound(verb, then):
    """Return commands that let the sound runner do a verb, with its answer in the file `answer`, and then do something else."""
    return f"""test $verb = {verb} && {{
    "$here/sound" "$@" | tail -n 1 > "$here/answer"
    {then}
    exit 0; }}"""


def changed_check(**changes):
    """Return commands that change the sound runner's answer to a check."""
    program = "import json, sys; print(json.dumps(dict(json.load(sys.stdin), **json.loads(sys.argv[1]))))"
    return sound("check", f"""{sys.executable} -c '{program}' '{json.dumps(changes)}' < "$here/answer" """)


def changed_samples(change):
    """Return commands that change the times that the sound runner took."""
    program = f'import numpy as np; found = np.memmap("$last", "<i8").reshape(-1, 2)[:, 0]; {change}'
    return sound("bench", f"""{sys.executable} -c '{program.replace("$last", "'$last'")}' ; cat "$here/answer" """)


def bench(samples, answer='{"arms": [{"n": 5}]}'):
    """Return commands that write the file of samples by a command, and answer a bench."""
    return f"test $verb = bench && {{ {samples} > $last; echo '{answer}'; exit 0; }}"


EVERY_BYTE = f"{sys.executable} -c 'import sys; sys.stdout.buffer.write(bytes(range(256)) * 4)'"
ENDED = r"edrun check: ended with exit code 0: "
NOT_EVALUATED = r"what the phone returned cannot be evaluated \("
LIES = {
    "garbage": (f"test $verb = check && {{ {EVERY_BYTE}; exit 0; }}", ENDED),
    "partial": ("test $verb = check && { echo '{\"outputs\": ['; exit 0; }", ENDED),
    "deep": ("test $verb = check && { head -c 400000 /dev/zero | tr '\\0' '['; exit 0; }", ENDED),
    "flood": ("test $verb = check && { yes; exit 0; }", r"printed more than 16,000,000 bytes and was stopped"),
    "list": (
        "test $verb = check && { echo '[1]'; exit 0; }",
        r"returned a list instead of an object; build the runner again",
    ),
    "empty": ("test $verb = check && { echo '{}'; exit 0; }", r"output-0 has no size, or more than "),
    "huge output": (
        sound("check", 'truncate -s 5G "${here%/*}"/work-*/0/output-0; cat "$here/answer"'),
        r"output-0 has no size, or more than ",
    ),
    "type": (changed_check(outputs=[SOUND | {"type": 99}]), NOT_EVALUATED),
    "shape": (changed_check(outputs=[SOUND | {"shape": [10**12]}]), NOT_EVALUATED),
    "requests": (changed_check(requests=10**15), NOT_EVALUATED),
    "crash": ("test $verb = bench && kill -SEGV $$", r"edrun bench: ended with exit code 139"),
    "few": (bench("true", '{"arms": []}'), r"the phone gave an answer that cannot be read"),
    "none": (bench("true"), r"edrun bench: returned no samples"),
    "odd": (bench("head -c 1001 /dev/zero | tr '\\0' '\\2'"), NOT_EVALUATED),
    "huge": (sound("bench", 'truncate -s 5G $last; cat "$here/answer"'), r"process-0 has no size, or more than "),
    "negative": (changed_samples("found *= -1"), NOT_EVALUATED),
    "zero": (changed_samples("found[:] = 0"), NOT_EVALUATED),
}

QUICK = ("garbage", "flood", "shape", "zero")
"""Those that are tried in the README's test command."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LIES]
)
def test_a_phone_that_floods_or_lies_is_a_sentence(phone, models, liar, tmp_path, name):
    behaviour, said = LIES[name]
    peak, result = peak_bytes_of(lambda: benched(phone, models, liar(behaviour), tmp_path))
    assert isinstance(result, str), result
    assert re.search(said, result), result
    assert peak < MOST_BYTES
    assert "Traceback" not in result
    assert phone.serial in result
    assert re.fullmatch(ONE_LINE, result)
    assert not list((tmp_path / "measurements").rglob("*.json"))
    assert not list(phone.root.glob("edgedistill/work-*"))


def test_what_a_phone_says_of_itself_is_made_plain_or_refused(phone, programs, liar, runner, tmp_path):
    sound_properties = (programs / "getprop").read_text()
    try:
        (programs / "getprop").write_text("#!/bin/sh\nprintf '[ro.product.model]: [Good\\033[31m Phone]\\n'\n")
        facts = probe(None, url(phone, runner)).facts
        assert facts["cpu"].isprintable()
        assert "Good" in facts["cpu"]
        (programs / "getprop").write_text("#!/bin/sh\nexec yes\n")
        with pytest.raises(DeviceError, match="printed more than 16,000,000 bytes"):
            examine(url(phone, runner))
    finally:
        (programs / "getprop").write_text(sound_properties)
    for answer, said in (
        ("{}", "the phone gave an answer that cannot be read"),
        (
            '{"engine": {}, "arch": 1, "kernel": 2, "cores": "x", "memory_bytes": null, "emulated": null}',
            "description of the device cannot be used",
        ),
        (
            '{"engine": 7, "arch": "a", "kernel": "k", "cores": 1, "memory_bytes": 1, "emulated": null}',
            "its engine cannot be used",
        ),
    ):
        folder = liar(f"test $verb = probe && {{ echo '{answer}'; exit 0; }}")
        with pytest.raises(DeviceError, match=said) as caught:
            probe(read_kit(ORT), url(phone, folder))
        assert phone.serial in str(caught.value)
        shutil.rmtree(phone.root / "edgedistill")


def test_a_phone_that_prints_faster_than_it_is_read_is_stopped(tmp_path):
    """The pipe is full when the program is stopped: asyncio only ends the wait for it after the pipe is read."""
    adb = tmp_path / "adb"
    adb.write_text("#!/bin/sh\nexec yes\n")
    adb.chmod(0o755)
    phone = Phone(parse_address("adb://one"), str(adb), "/data/local/tmp/work")
    for _ in range(5):
        with pytest.raises(DeviceError, match="printed more than 16,000,000 bytes and was stopped"):
            asyncio.run(asyncio.wait_for(phone.output_of("ls"), 300))
