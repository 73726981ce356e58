"""Locks: one command works in a run folder, a killed one leaves nothing, and what a living one writes stays."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgedistill.distill.cache import SEAL, Cache
from edgedistill.errors import ConfigError
from edgedistill.runtime.files import atomic_path, make_folder, remove_files, remove_parts, write_atomic
from edgedistill.runtime.folder import Run
from edgedistill.runtime.scratch import PREFIX
from tests.support.command import REPOSITORY, edgedistill

CONFIG = 'name = "job"\n[data]\ntrain = "missing.npz"\n[teacher]\nmodel = "nets:net"\n[student]\nmodel = "nets:net"\n[[target]]\nname = "pc"\nkit = "ort"\n'


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))


def test_a_folder_has_one_lock_and_its_holder_can_take_it_again(tmp_path):
    first, second = Run(tmp_path / "run"), Run(tmp_path / "run")
    with first.locked(), first.locked():
        with pytest.raises(ConfigError, match="another edgedistill process is using this run folder"), second.locked():
            pass
        first.finish("data", {"record": {}})
    with second.locked():
        second.refresh()
        assert list(second.stages) == ["data"]


def test_a_folder_into_which_nothing_was_written_is_removed_and_any_other_stays(tmp_path):
    with Run(tmp_path / "runs" / "empty").locked():
        assert (tmp_path / "runs" / "empty").is_dir()
    assert not (tmp_path / "runs").exists()
    (tmp_path / "mine").mkdir()
    with Run(tmp_path / "mine").locked():
        pass
    assert (tmp_path / "mine").is_dir()
    run = Run(tmp_path / "runs" / "full")
    with run.locked():
        run.save()
    assert (tmp_path / "runs" / "full" / "manifest.json").is_file()


def test_many_take_and_remove_a_folder_and_never_two_hold_it(tmp_path):
    holders, most, taken = [], [], []

    def take():
        for _ in range(40):
            with suppress(ConfigError), Run(tmp_path / "runs" / "job").locked():
                holders.append(1)
                most.append(len(holders))
                taken.append(1)
                holders.pop()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert taken


@pytest.mark.slow
def test_a_second_run_is_refused_before_it_reads_the_data(tmp_path):
    (tmp_path / "edgedistill.toml").write_text(CONFIG)
    with Run(tmp_path / "run").locked():
        done = edgedistill("run", "edgedistill.toml", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "another edgedistill process is using this run folder" in done.stderr
    done = edgedistill("run", "edgedistill.toml", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "missing.npz" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_being_written_is_no_left_over(tmp_path):
    with atomic_path(tmp_path / "model.onnx") as scratch:
        scratch.write_bytes(b"half")
        remove_parts(tmp_path)
        assert scratch.exists()
        scratch.write_bytes(b"whole")
    assert (tmp_path / "model.onnx").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_a_library_writes_under_another_name_first_is_no_left_over(tmp_path):
    with atomic_path(tmp_path / "model.safetensors") as scratch:
        save_file({"x": torch.zeros(2)}, scratch)  # writes another file and renames it
        remove_parts(tmp_path)
        save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
        write_atomic(tmp_path / "model.safetensors", b"of another process")
        assert scratch.exists()
    assert load_file(tmp_path / "model.safetensors")["x"].tolist() == [0, 0]


def test_many_write_one_file_while_others_remove_what_is_left_over(tmp_path):
    ended = threading.Event()

    def remove():
        while not ended.is_set():
            remove_parts(tmp_path)

    def write(content):
        for _ in range(50):
            write_atomic(tmp_path / "folder" / "file", content * 1000)

    removers = [threading.Thread(target=remove) for _ in range(2)]
    for thread in removers:
        thread.start()
    try:
        with ThreadPoolExecutor(3) as writers:
            list(writers.map(write, "abc"))
    finally:
        ended.set()
        for thread in removers:
            thread.join()
    assert len(set((tmp_path / "folder" / "file").read_text())) == 1
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]


def test_the_next_writer_of_a_file_removes_what_a_killed_one_left(tmp_path):
    for name in (".control.part-a1b2c3d4.json", ".other.part-a1b2c3d4.json"):
        (tmp_path / name).write_text("{")
    write_atomic(tmp_path / "control.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.part-a1b2c3d4.json", "control.json"]


def test_folders_are_made_and_files_removed_for_good(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    for name in ("teacher-resume.pt", "teacher.pt"):
        (tmp_path / "a" / "b" / name).touch()
    remove_files(tmp_path, "*resume.pt")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["teacher.pt"]


def test_a_cache_whose_removal_was_interrupted_is_begun_anew(tmp_path):
    cache = Cache(tmp_path, "0" * 64, (1, 10, 4))
    for name in (SEAL, "engine", "logits.npy"):
        (tmp_path / name).write_text("torch")
    assert cache.first_block() is None


MEASURING = """
import sys
from edgedistill.runtime.scratch import scratch_folder
with scratch_folder() as work:
    print(work.parent, flush=True)
    sys.stdin.readline()
"""


def test_a_folder_in_use_stays_also_when_the_clock_has_jumped(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", MEASURING]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as using:
        assert using.stdin is not None
        assert using.stdout is not None
        folder = Path(using.stdout.readline().strip())
        assert folder.name.startswith(PREFIX)
        os.utime(folder, (0, 0))  # a clock that then jumped by decades
        another = "from edgedistill.runtime.scratch import scratch_folder\nwith scratch_folder(): pass"
        subprocess.run([sys.executable, "-c", another], env=environment, check=True)
        assert folder.is_dir()
        using.stdin.write("\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            make_folder(tmp_path / name)
    make_folder(tmp_path / "new" / "folder")
    make_folder(tmp_path / "new" / "folder")
