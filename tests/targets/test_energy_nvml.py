"""NVML as a library that a C compiler makes: one that answers, and one that initialises and then refuses, as Jetson's does."""

import shutil
import subprocess
from pathlib import Path

import pytest
from energy import nvml
from energy.source import AbsentError, NoSourceError

STUB = r"""
#include <string.h>
/* Signatures and error numbers as in NVIDIA's nvml.h: 0 success, 3 not supported. */
#define NOT_SUPPORTED 3
static unsigned long long energy_mj = 1000;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = CARDS; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **card) { *card = (void *)(long)(i + 1); return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *card, unsigned long long *mj) {
    if (!HAS_COUNTER) return NOT_SUPPORTED;
    *mj = energy_mj += 250 * (unsigned long long)(long)card;
    return 0;
}
int nvmlDeviceGetPowerUsage(void *card, unsigned int *mw) {
    if (!HAS_POWER) return NOT_SUPPORTED;
    *mw = 61000;
    return 0;
}
"""


@pytest.fixture
def library(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")

    def build(*, counter: bool, power: bool, cards: int = 1) -> str:
        source = tmp_path / "nvml.c"
        source.write_text(STUB, encoding="utf-8")
        made = tmp_path / f"libnvml-{counter}-{power}-{cards}.so"
        flags = [f"-DHAS_COUNTER={int(counter)}", f"-DHAS_POWER={int(power)}", f"-DCARDS={cards}"]
        subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", str(made), str(source)], check=True)
        return str(made)

    return build


def test_the_energy_counter_is_preferred_and_in_microjoules(library):
    source = nvml.find(Path("/"), library(counter=True, power=True))
    first, second = source.readings()[0].value, source.readings()[0].value
    assert source.counts
    assert source.name == "nvml energy counter"
    assert second - first == 250_000.0  # the stub's 250 mJ
    source.close()


def test_cards_without_a_counter_tell_power(library):
    source = nvml.find(Path("/"), library(counter=False, power=True, cards=2))
    assert not source.counts
    assert source.readings()[0].value == 2 * 61000.0
    assert source.scope == "the graphics cards, all 2, without the rest of the machine"
    source.close()


def test_a_driver_that_initialises_and_then_refuses_is_no_source(library):
    with pytest.raises(NoSourceError, match="NVML is installed but failed: Not Supported"):
        nvml.find(Path("/"), library(counter=False, power=False))


def test_a_driver_without_cards_is_no_source(library):
    with pytest.raises(NoSourceError, match="NVML finds no graphics card"):
        nvml.find(Path("/"), library(counter=True, power=True, cards=0))


def test_a_machine_without_the_driver_has_none():
    with pytest.raises(AbsentError):
        nvml.find(Path("/"), "libnvidia-ml-that-is-not-there.so.1")
