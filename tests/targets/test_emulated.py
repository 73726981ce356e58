"""An emulated processor: outputs are checked under a name of their own, and nothing is timed."""

import os

from tests.support.jobs import harness, scripted_arm, write_job

EMULATED = os.environ | {"EDGEDISTILL_EMULATED": "qemu-aarch64 as cortex-a76"}


def test_a_bench_is_refused(tmp_path):
    path = write_job(tmp_path, [scripted_arm(tmp_path, "one", expected="same")])
    code, answer, _ = harness("bench", path, env=EMULATED)
    assert code == 2
    assert "qemu-aarch64 as cortex-a76 emulates this processor" in answer["error"]
    assert "use check" in answer["error"]
    assert not (tmp_path / "measurements").exists()


def test_a_check_says_what_it_is_valid_for_and_that_nothing_was_timed(tmp_path):
    path = write_job(tmp_path, [scripted_arm(tmp_path, "one", expected="same")])
    code, (emulated,), _ = harness("check", path, env=EMULATED)
    _, (real,), _ = harness("check", path)
    assert code == 0
    assert emulated["check"]["target"].startswith("emulated-")
    assert emulated["check"]["latency_ns"] is None
    assert "those of the emulator" in emulated["check"]["reasons"]["latency_ns"]
    assert emulated["check"]["device"]["emulated"] == "qemu-aarch64 as cortex-a76"
    assert emulated["check"]["parity"] == real["check"]["parity"]
    assert real["check"]["target"] == "pc"
    assert real["check"]["device"]["emulated"] is None


def test_fewer_requests_can_be_checked(tmp_path):
    arm = scripted_arm(tmp_path, "one", expected="same", metric="top1")
    _, (result,), _ = harness("check", write_job(tmp_path, [arm], requests=7))
    assert result["check"]["requests"] == result["check"]["accuracy"]["n"] == 7
    code, answer, _ = harness("check", write_job(tmp_path, [arm], requests=0))
    assert code == 2
    assert "requests = 0; it must be a whole number above 0" in answer["error"]
