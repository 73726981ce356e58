"""Loss of power: record every write of a run, build what a disk may hold after a cut at each point, and run the command on it.

python benchmarks/kills/power.py [--states 60] [--seed 1] [--until distill] [--json FILE]

A forked run calls functions of `os` that note each fsync, rename, link, removal and new folder, and with each of them the content of all
files of the run folder and the cache, also of those that are mapped into memory. Three disks are built for the cut after each note:

"kept": all that was written is there, as after a kill.
"lost": a file has what it had at its last fsync, and a folder the names that it had at its last fsync.
"torn": a folder has all its names, and a file has what it had at its last fsync; without one, the first half of its bytes.

Equal disks count once. On each of `--states` disks, taken at random, the run is started again: it must end with the same results, or say in
a sentence what is damaged. A new file has another inode than the recorded one, so that remembered hashes of files are never used here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import jobs
from checks import require_clean, require_equal, require_sound, results
from commands import FoundError, Place, print_row
from series import RUN

NOTED: Final = ("fsync", "rename", "replace", "link", "unlink", "remove", "mkdir", "rmdir")
KEPT: Final = ("job/runs", "cache")
"""What of a series' folder is recorded and built again."""

Tree = dict[str, tuple[int, bytes | None]]
"""By path: the inode, and the content of a file, or None for a folder."""


class Note(NamedTuple):
    """The tree after a call, and the inode that the call wrote to the disk, if it was fsync."""

    call: str
    synced: int | None
    tree: Tree


def tree_of(folder: Path) -> Tree:
    found: Tree = {}
    for top in KEPT:
        for path in (folder / top, *sorted((folder / top).rglob("*"))):
            with suppress(FileNotFoundError):  # a thread has just removed it
                content = None if path.is_dir() else path.read_bytes()
                found[path.relative_to(folder).as_posix()] = (path.stat().st_ino, content)
    return found


def record(folder: Path, log: Path) -> None:
    """Let the functions of `os` write a note into a log after each call."""
    with log.open("wb") as file:
        pickle.dump(Note("start", None, tree_of(folder)), file)

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            synced = os.fstat(given[0]).st_ino if name == "fsync" else None
            answer = function(*given, **more)
            with log.open("ab") as file:
                pickle.dump(Note(name, synced, tree_of(folder)), file)
            return answer

        return call

    for name in NOTED:
        setattr(os, name, noting(name, getattr(os, name)))


def notes(log: Path) -> Iterator[Note]:
    with log.open("rb") as file, suppress(EOFError):
        while True:
            yield pickle.load(file)  # noqa: S301 - written by this script


def disks(log: Path) -> Iterator[tuple[str, Tree]]:
    """Yield each kind of disk after each note."""
    files: dict[int, bytes] = {}
    folders: dict[int, dict[str, int]] = {}
    numbers: dict[int, int] = {}
    made = 0
    for note in notes(log):
        present = {inode for inode, _ in note.tree.values()}
        numbers = {inode: numbers.get(inode, place) for inode, place in zip(present, count(made), strict=False)}
        made += len(present)  # an inode that was free for a while is another file
        tree = {path: (numbers[inode], content) for path, (inode, content) in note.tree.items()}
        synced = numbers.get(note.synced) if note.synced is not None else None
        for path, (number, content) in tree.items():
            if number == synced and content is not None:
                files[number] = content
            elif number == synced:
                folders[number] = dict(_names(tree, path))
        yield "kept", tree
        yield "torn", {path: (number, _torn(files, number, content)) for path, (number, content) in tree.items()}
        yield "lost", dict(_durable(tree, files, folders))


def _names(tree: Tree, folder: str) -> Iterator[tuple[str, int]]:
    for path, (inode, _) in tree.items():
        if path.rpartition("/")[0] == folder:
            yield path.rpartition("/")[2], inode


def _torn(files: dict[int, bytes], inode: int, content: bytes | None) -> bytes | None:
    return None if content is None else files.get(inode, content[: len(content) // 2])


def _durable(
    tree: Tree, files: dict[int, bytes], folders: dict[int, dict[str, int]]
) -> Iterator[tuple[str, tuple[int, bytes | None]]]:
    """Yield what is on the disk if only what fsync wrote is there."""
    kinds = {inode: content is None for inode, content in tree.values()}
    todo = [(top, tree[top][0]) for top in KEPT if top in tree]
    while todo:
        path, inode = todo.pop()
        is_folder = kinds.get(inode, inode in folders)
        yield path, (inode, None if is_folder else files.get(inode, b""))
        if is_folder:
            todo += [(f"{path}/{name}", number) for name, number in folders.get(inode, {}).items()]


def build(tree: Tree, folder: Path) -> None:
    """Write a tree; names of one inode become links of one file."""
    for top in KEPT:
        shutil.rmtree(folder / top, ignore_errors=True)
    first: dict[int, Path] = {}
    for path, (inode, content) in sorted(tree.items()):
        target = folder / path
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if inode in first:
            os.link(first[inode], target)
        else:
            target.write_bytes(content)
            first[inode] = target


def key_of(tree: Tree) -> str:
    digest = hashlib.sha256()
    for path, (_, content) in sorted(tree.items()):
        digest.update(f"{path}\0{'' if content is None else hashlib.sha256(content).hexdigest()}\0".encode())
    return digest.hexdigest()


def start_again(place: Place, given: tuple[str, ...], wanted: dict[str, Any]) -> str:
    """Run the command on a disk; return "continued", or the sentence with which it refused; raise FoundError for anything else."""
    command = place.start(*given)
    if command.wait() == 2 and "Traceback" not in command.said() and "edgedistill: " in command.said():
        return f"said: {command.said().splitlines()[-1]}"
    if command.code != 0:
        raise FoundError(f"ended with {command.code}: {command.said()[-1500:]}")
    require_sound(place.job / RUN)
    require_equal(results(place.job / RUN), wanted)
    require_clean(place)
    return "continued"


def replay(folder: Path, states: int, seed: int, until: str) -> dict[str, Any]:
    """Record a run, and start it again on some of the disks that a cut can leave."""
    place, log = Place(folder / "recorded"), folder / "log"
    jobs.classifier(place.job)
    given = ("run", "edgedistill.toml", "--until", until)
    child = os.fork()
    if child == 0:
        record(place.folder, log)
        code = place.run(*given).code
        os._exit(code or 0)
    if os.waitpid(child, 0)[1] != 0:
        raise FoundError("the recorded run failed")
    wanted = results(place.job / RUN)
    distinct: dict[str, str] = {}
    for kind, tree in disks(log):
        distinct.setdefault(key_of(tree), kind)
    chosen = set(random.Random(f"power/{seed}").sample(sorted(distinct), min(states, len(distinct))))  # noqa: S311 - no secret
    outcomes: Counter[str] = Counter()
    for kind, tree in disks(log):
        if (key := key_of(tree)) in chosen:
            chosen.remove(key)
            build(tree, place.folder)
            outcomes[f"{kind}: {start_again(place, given, wanted)}"] += 1
    calls = Counter(note.call for note in notes(log))
    return {
        "seed": seed, "until": until, "calls": dict(sorted(calls.items())), "distinct_disks": len(distinct),
        "tried": outcomes.total(), "outcomes": dict(sorted(outcomes.items())), "defects": 0,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=60, help="the number of disks on which the run is started again")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", default="distill", help="the last stage of the run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    return print_row(options.json, lambda folder: replay(folder, options.states, options.seed, options.until))


if __name__ == "__main__":
    sys.exit(main())
