"""Whether int8 pays, from measurements in which it takes turns with the float student."""

import pytest
import torch
from scipy import stats

from edgedistill.errors import DeviceError
from edgedistill.kits.kits import find_kits
from edgedistill.quantize.payoff import describe, does_not_pay, int8_speed, speed_kept
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import StudentForm
from edgedistill.records.measurement import Duet, Measurement
from edgedistill.records.quantize_steps import Int8Speed
from tests.support.compare_builders import Fake, measurement

FORMS = (StudentForm("float", torch.nn.Identity(), int8=False), StudentForm("int8", torch.nn.Identity(), int8=True))


class Planted:
    """Returns measurements with the given p50s of each form in each set, in turns or not, or fails."""

    def __init__(self, *p50s: list[float], error: str | None = None, turns: bool = True) -> None:
        self.p50s, self.error, self.turns = p50s, error, turns

    def measure(self, _target: Int8Target, forms: tuple[StudentForm, ...]) -> list[Measurement]:
        if self.error is not None:
            raise DeviceError(self.error)
        return [self.one(place, form.name, forms) for place, form in enumerate(forms)]

    def one(self, place: int, name: str, forms: tuple[StudentForm, ...]) -> Measurement:
        own = self.p50s[place]
        found = measurement(Fake(name=name, processes=len(own), size_bytes=400 >> place))
        processes = [one.model_copy(update={"p50_ns": p50}) for one, p50 in zip(found.processes, own, strict=True)]
        others = zip(forms, self.p50s, strict=True)
        ratios = {
            form.name: tuple(mine / theirs for mine, theirs in zip(own, p50s, strict=True)) for form, p50s in others
        }
        duet = Duet(id="d", arm=name, ratios=ratios) if self.turns else None
        return found.model_copy(update={"processes": tuple(processes), "duet": duet})


def target(float_precision: str | None = "fp32") -> Int8Target:
    kit = find_kits()["ort"]
    return Int8Target(name="pc", kit=kit, device="local", threads=1, float_precision=float_precision)


def test_int8_that_is_slower_in_every_turn_does_not_pay():
    found = int8_speed(Planted([100, 150, 101], [182, 272, 185]), target(), *FORMS)
    assert (found.verdict, found.compared_with, found.size_ratio) == ("slower", "fp32", 0.5)
    assert found.latency_ratio == pytest.approx(1.82, abs=0.01)
    assert found.ci95[0] < found.latency_ratio < found.ci95[1]
    assert describe(found).startswith("pc: int8 takes 1.82 (1.")
    unknown = Int8Speed(target="board", reason="not measured: the board does not answer")
    assert does_not_pay((found,))
    assert not does_not_pay((found, unknown)), "a target that was not measured may be faster"
    assert not does_not_pay(())


def test_a_disturbed_machine_slows_both_in_a_turn_and_hides_a_difference_only_without_turns():
    before, after = [100, 300, 100], [120, 362, 119]
    assert int8_speed(Planted(before, after), target(), *FORMS).verdict == "slower"
    assert int8_speed(Planted(before, after, turns=False), target(), *FORMS).verdict == "cannot tell"


def test_what_is_not_measured_has_a_reason():
    assert int8_speed(Planted(), target(None), *FORMS).reason == "the target takes int8 only"
    failed = int8_speed(Planted(error="ssh://board: not reachable"), target(), *FORMS)
    assert (failed.verdict, failed.reason) == (None, "not measured: ssh://board: not reachable")
    assert "ssh://board" in describe(failed)


@pytest.mark.parametrize("turns", [True, False])
def test_the_speed_kept_is_a_share_of_the_time_that_int8_saves(turns):
    mixed = StudentForm("mixed", torch.nn.Identity(), int8=True)
    planted = Planted([200, 300, 200], [100, 150, 100], [125, 188, 124], turns=turns)
    kept = speed_kept(planted, target(), FORMS, mixed)
    shares = [2 * (1 - 125 / 200), 2 * (1 - 188 / 300), 2 * (1 - 124 / 200)]  # int8 saves a half in each set
    assert kept.value == pytest.approx(sum(shares) / 3)
    half = stats.sem(shares) * stats.t.ppf(0.975, 2)
    assert kept.ci95 == pytest.approx((kept.value - half, kept.value + half))
    assert "int8 was not faster" in speed_kept(Planted([100] * 3, [110] * 3, [105] * 3), target(), FORMS, mixed)
    assert "not reachable" in speed_kept(Planted(error="pc: not reachable"), target(), FORMS, mixed)
