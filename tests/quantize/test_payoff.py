"""Whether int8 pays, from the times of its processes beside those of the float student."""

import pytest
import torch

from edgedistill.errors import DeviceError
from edgedistill.kits.kits import find_kits
from edgedistill.quantize.payoff import describe, does_not_pay, int8_speed, speed_kept
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import StudentForm, StudentTime
from edgedistill.records.stages import Int8Speed

FORMS = (StudentForm("float", torch.nn.Identity(), int8=False), StudentForm("int8", torch.nn.Identity(), int8=True))


class Planted:
    """Returns the given p50s of each form in turn, or fails."""

    def __init__(self, *batches: list[list[float]] | DeviceError) -> None:
        self.batches = list(batches)

    def measure(self, _target: Int8Target, _forms: tuple[StudentForm, ...]) -> list[StudentTime]:
        batch = self.batches.pop(0)
        if isinstance(batch, DeviceError):
            raise batch
        return [StudentTime(tuple(p50s), 400 >> place) for place, p50s in enumerate(batch)]


def target(float_precision: str | None = "fp32") -> Int8Target:
    kit = find_kits()["ort"]
    return Int8Target(name="pc", kit=kit, device="local", threads=1, float_precision=float_precision)


def test_int8_that_is_slower_in_every_turn_does_not_pay():
    found = int8_speed(Planted([[100, 150, 101], [182, 272, 185]]), target(), *FORMS)
    assert (found.verdict, found.compared_with, found.size_ratio) == ("slower", "fp32", 0.5)
    assert found.latency_ratio == pytest.approx(1.82, abs=0.01)
    assert found.ci95[0] < found.latency_ratio < found.ci95[1]
    assert describe(found).startswith("pc: int8 takes 1.82 (1.")
    unknown = Int8Speed(target="board", reason="not measured: the board does not answer")
    assert does_not_pay((found,))
    assert not does_not_pay((found, unknown)), "a target that was not measured may be faster"
    assert not does_not_pay(())


def test_one_disturbed_process_is_measured_again():
    disturbed, quiet = [[100, 300, 100], [120, 120, 120]], [[100, 100, 101], [120, 121, 120]]
    planted = Planted(disturbed, quiet)
    assert int8_speed(planted, target(), *FORMS).verdict == "slower"
    assert planted.batches == []
    assert int8_speed(Planted(disturbed, disturbed), target(), *FORMS).verdict == "no difference seen"


def test_what_is_not_measured_has_a_reason():
    assert int8_speed(Planted(), target(None), *FORMS).reason == "the target takes int8 only"
    failed = int8_speed(Planted(DeviceError("ssh://board: not reachable")), target(), *FORMS)
    assert (failed.verdict, failed.reason) == (None, "not measured: ssh://board: not reachable")
    assert "ssh://board" in describe(failed)


def test_the_speed_kept_is_a_share_of_the_time_that_int8_saves():
    mixed = StudentForm("mixed", torch.nn.Identity(), int8=True)
    kept = speed_kept(Planted([[200, 200, 200], [100, 100, 100], [125, 125, 125]]), target(), FORMS, mixed)
    assert kept == pytest.approx(0.75)
    assert "int8 was not faster" in speed_kept(Planted([[100] * 3, [110] * 3, [105] * 3]), target(), FORMS, mixed)
    assert "not reachable" in speed_kept(Planted(DeviceError("pc: not reachable")), target(), FORMS, mixed)
