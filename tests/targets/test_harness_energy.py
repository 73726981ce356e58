import json
import subprocess
import sys
from pathlib import Path

import energy
import pytest
from energy import NoSourceError, rapl
from jobs import TARGETS, scripted_arm


def zone(root: Path, name: str, label: str, counter="1000", limit="262143328850") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for file, text in (("name", label), ("energy_uj", counter), ("max_energy_range_uj", limit)):
        (folder / file).write_text(text + "\n", encoding="ascii")
    return folder


@pytest.fixture
def tree(tmp_path):
    """The flat list of links that /sys/class/powercap is, on a laptop: each package twice, zones inside, psys above."""
    (tmp_path / "intel-rapl").mkdir()
    (tmp_path / "intel-rapl-mmio").mkdir()
    zone(tmp_path, "intel-rapl:0", "package-0", "52649883221")
    zone(tmp_path, "intel-rapl:0:0", "core", "7")
    zone(tmp_path, "intel-rapl:0:1", "uncore", "7")
    zone(tmp_path, "intel-rapl:1", "psys", "7")
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", "99999999999")
    return tmp_path


def test_only_packages_are_read_and_each_once(tree):
    source = rapl.find(tree)
    assert source.name == "rapl package-0"
    assert source.read_uj() == [52649883221]


def test_a_tree_nested_under_its_control_type_is_read_the_same(tmp_path):
    zone(tmp_path / "intel-rapl", "intel-rapl:0", "package-0", "5")
    zone(tmp_path / "intel-rapl" / "intel-rapl:0", "intel-rapl:0:0", "core", "7")
    assert rapl.find(tmp_path).read_uj() == [5]


def test_several_packages_and_dies_add_up(tree):
    zone(tree, "intel-rapl:2", "package-1", "10")
    zone(tree, "intel-rapl:3", "package-1-die-1", "20")
    source = rapl.find(tree)
    assert source.name == "rapl package-0+package-1+package-1-die-1"
    assert source.used_uj([1, 10, 20], [4, 15, 30]) == 3 + 5 + 10


def test_a_counter_that_wrapped_is_put_right(tree):
    assert rapl.find(tree).used_uj([262143328850 - 5], [10]) == 15


def test_a_zone_that_cannot_be_read_is_replaced_by_its_twin(tree):
    (tree / "intel-rapl:0" / "energy_uj").unlink()
    assert rapl.find(tree).read_uj() == [99999999999]


@pytest.mark.parametrize("missing", ["energy_uj", "max_energy_range_uj"])
def test_a_package_that_cannot_be_read_leaves_no_partial_sum(tree, missing):
    (zone(tree, "intel-rapl:2", "package-1") / missing).unlink()
    with pytest.raises(NoSourceError, match=f"intel-rapl:2/{missing}: No such file"):
        rapl.find(tree)


def test_a_machine_without_counters_says_where_it_looked(tmp_path):
    with pytest.raises(NoSourceError, match="powercap does not exist"):
        rapl.find(tmp_path / "powercap")
    with pytest.raises(NoSourceError, match="holds no RAPL package"):
        rapl.find(tmp_path)


def spend(counter: Path, energy_uj: int):
    """Return work that infers 10 times and turns the recorded counter on, past its end."""

    def work(_until_ns):
        counter.write_text(str((int(counter.read_text()) + energy_uj) % 262143328850))
        return 10

    return work


def test_energy_per_inference_is_the_counters_step_over_the_window(tree):
    counter = tree / "intel-rapl:0" / "energy_uj"
    counter.write_text("262143328000")
    figures = energy.meter(rapl.find(tree), spend(counter, 5000), 0.02)
    assert figures == {"per_inference": 500.0, "idle_subtracted": 500.0, "source": "rapl package-0", "reason": None}


def test_a_window_that_drew_nothing_has_no_energy_above_idle(tree):
    figures = energy.meter(rapl.find(tree), spend(tree / "intel-rapl:0" / "energy_uj", 0), 0.02)
    assert figures["idle_subtracted"] is None
    assert "no more than when idle" in figures["reason"]


def test_idle_that_changed_is_not_subtracted():
    above, reason = energy.subtract_idle(5000.0, 1.0, 1000.0, 1100.0)
    assert above is None
    assert "1000 mW before and 1100 mW after" in reason
    assert energy.subtract_idle(5e6, 2.0, 1000.0, 1020.0) == (pytest.approx(5e6 - 2.02e6), None)


PASS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import workers
from energy import rapl
from pathlib import Path
print(json.dumps(workers.energy_of(json.loads(sys.argv[3]), rapl.find(Path(sys.argv[2])))))
"""


def energy_pass(tree, arm):
    spec = {key: arm[key] for key in ("kit", "kit_dir", "entry", "precision", "threads")}
    spec |= {"head": str(Path(arm["entry"]).parent / "io.npz"), "seconds": 0.05, "window": 0.2}
    command = [sys.executable, "-c", PASS, str(TARGETS / "harness"), str(tree), json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.rsplit("\n", 2)[-2])


def test_a_whole_pass_finds_what_each_inference_spends(tree):
    """The scripted engine turns the counter on by 100 microjoules an inference."""
    counter = tree / "intel-rapl:0" / "energy_uj"
    figures = energy_pass(tree, scripted_arm(tree, "one", {"counter": str(counter)}))
    assert figures == {"per_inference": 100.0, "idle_subtracted": 100.0, "source": "rapl package-0", "reason": None}


def test_a_counter_that_fails_later_is_a_reason_and_no_wrap_around(tree):
    source = rapl.find(tree)
    (tree / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(NoSourceError, match=r"failed while it was read: .*No such file"):
        energy.meter(source, lambda _until_ns: 1, 0.01)
