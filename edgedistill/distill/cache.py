"""The cache of soft labels on disk, shared between runs.

A cache is a folder named by its fingerprint. It contains `manifest.json`; `logits.npy`, raw logits (views, samples, classes) in
float16, or for a regression in float32, for any temperature and loss, or entries of `distill.top_k` (views, samples) for many classes; `output-NAME.npy`
(views, samples, ...) for each other output of the teacher; `done.npy`, a checksum of each finished block of entries, to resume
after an interruption; `engine`, the engines of the teachers; and `logits.sha256`, which is written last.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from edgedistill.data.sources import Array
from edgedistill.distill.blocks import DIGEST_BYTES, block_count, blocks_of, find_damage
from edgedistill.errors import ConfigError
from edgedistill.records.stages import SOFT_LABELS_SCHEMA, DataRecord
from edgedistill.runtime import processes
from edgedistill.runtime.caches import caches_folder, locked
from edgedistill.runtime.files import PART, atomic_path, make_folder, sha256_of, write_atomic, write_json
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks.table import find_task

KIND: Final = "soft_labels"
"""The kind of these caches, which names their folder."""

SEAL: Final = "logits.sha256"
OUTPUT: Final = "output-"
ENGINES: Final = frozenset({"torch", "openvino", "onnxruntime", "recorded"})
"""The words of the file `engine`."""
SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MOST_WHOLE, KEPT = 2000, 32
"""The largest number of classes for which the default keeps all logits of a view, and the number kept for more classes."""
KEPT_CELLS: Final = 256
"""The cells of a detector that the default keeps of a view."""
TEMPERATURES: Final = (1.0, 2.0, 4.0, 8.0)
"""The temperatures at which the sum of the remaining logits is stored."""


def stored_logits(data: DataRecord, views: int, top_k: int | None) -> int:
    """Return the number of logits, or cells of a detector, that soft labels keep of a view, 0 for all.

    `top_k` is the key of the configuration, or None.
    """
    task = find_task(data.task)
    if not task.keeps_top_k or views == 0:
        return 0
    if task.is_dense:
        return KEPT_CELLS if top_k is None else top_k
    if top_k is None:
        return KEPT if len(data.classes) > MOST_WHOLE else 0
    return top_k


def entry_type(classes: int, top_k: int) -> np.dtype:
    """Return the type of a top-k entry: class numbers, their logits in falling order, and the sums of the other classes.

    A sum is log(sum(exp(logit / T))) for each T of TEMPERATURES, in float32, because float16 would round it T times as coarsely
    as the logits.
    """
    number = np.uint16 if classes <= 1 << 16 else np.uint32
    return np.dtype([
        ("classes", number, (top_k,)), ("logits", np.float16, (top_k,)), ("others", np.float32, (len(TEMPERATURES),)),
    ])  # fmt: skip


def cell_entry_type(shape: tuple[int, ...], kept: int) -> np.dtype:
    """Return the type of an entry for outputs (A, D): the numbers of the kept cells, their values, and the mean of the others."""
    cells, values = shape
    number: npt.DTypeLike = np.uint16 if cells <= 1 << 16 else np.uint32
    count = min(kept, cells)
    return np.dtype(
        [("cells", number, (count,)), ("values", np.float16, (count, values)), ("rest", np.float16, (values,))]
    )


def describe_caches() -> Iterator[str]:
    """Yield a line for each cache: its folder, shape, size, and whether it is complete."""
    folder = caches_folder(KIND)
    manifests = sorted(folder.glob("*/manifest.json"))
    yield f"{len(manifests)} caches in {folder}; to free the space, delete folders there"
    for manifest in manifests:
        about = _read_manifest(manifest)
        if about is None:
            yield f"{manifest.parent.name[:16]}  {manifest.name} is damaged; the next run that needs this cache makes it again"
            continue
        size = sum(path.stat().st_size for path in manifest.parent.iterdir())
        state = "complete" if (manifest.parent / SEAL).exists() else "incomplete"
        if about["schema"] != SOFT_LABELS_SCHEMA:
            state = f"of an earlier version ({about['schema']}), which no run uses; delete it"
        views, samples, classes, *sides = about["shape"]
        whole = f"{classes} classes" if not sides else f"{classes} class maps of {'x'.join(map(str, sides))}"
        if len(sides) == 1:
            whole = f"{about['top_k']} of {classes} cells" if "top_k" in about else f"{classes} detections"
        kept = f"the {about['top_k']} largest of {classes} logits" if "top_k" in about and not sides else whole
        yield f"{manifest.parent.name[:16]}  {views} views of {samples:,} samples, {kept}, {size:,} bytes, {state}"


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the content of a manifest, or None if it is damaged."""
    try:
        about = json.loads(path.read_bytes())
    except ValueError:
        return None
    return about if isinstance(about, dict) and about.keys() >= {"schema", "fingerprint", "shape"} else None


def describe_controls() -> str:
    """Return a line with the number and size of shared controls."""
    folder = caches_folder("controls")
    sizes = [path.stat().st_size for path in folder.glob("*/*")]
    return f"{len(list(folder.glob('*/control.json')))} controls in {folder}, {sum(sizes):,} bytes"


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link to a file, or a copy on another file system."""
    with atomic_path(target) as scratch:
        try:
            os.link(source, scratch)
        except OSError:
            shutil.copyfile(source, scratch)


def require_finite(answer: Array, name: str) -> None:
    """Raise ConfigError for outputs of a teacher that are NaN or infinite."""
    if not np.isfinite(answer).all():
        raise ConfigError(f"teacher: {name} are not finite; check the teacher's weights and mean/std")


def require_float16(answer: Array, name: str) -> Array:
    """Return outputs of a teacher; raises ConfigError for those that float16 cannot hold."""
    require_finite(answer, name)
    largest = np.abs(answer).max(initial=0)
    if largest > np.finfo(np.float16).max:
        raise ConfigError(
            f"teacher: {name} reach {largest:,.0f}, but are stored in float16, up to 65,504; check the teacher's weights and mean/std, "
            "or set distill.views = 0, which stores nothing"
        )
    return answer


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache: its folder, fingerprint, shape (views, samples, ...), and the number of logits that it keeps, 0 for all.

    `classes` is the number of classes, `number` the type of the logits. The last axes are those of the labelled output of a sample: (classes,) or, for class maps, (classes, height, width).
    """

    folder: Path
    fingerprint: str
    shape: tuple[int, ...]
    top_k: int = 0
    classes: int = 0
    number: Literal["float16", "float32"] = "float16"

    @contextmanager
    def locked(self, report: Reporter) -> Iterator[None]:
        """Hold the lock of the cache; waits while another launch holds it."""
        make_folder(self.folder)
        if not processes.is_main_process():  # rank 0 holds the lock for its whole launch
            yield
            return
        waiting = "soft labels: waiting for another process that computes the same soft labels"
        with locked(self.folder, lambda: report.info(waiting)):
            yield

    def is_complete(self, report: Reporter) -> bool:
        """Return whether the cache is complete; a damaged cache, complete or not, is removed, and the report says why."""
        damage = self._damage()
        if damage is not None:
            report.info(f"soft labels: the cache {self.folder} is damaged ({damage}); it is removed and made again")
            self.discard()
        return all((self.folder / name).exists() for name in ("manifest.json", SEAL))

    def discard(self) -> None:
        """Remove the files of the cache; a run keeps its links to them."""
        for name in ("manifest.json", SEAL, "engine", "done.npy", "logits.npy"):
            (self.folder / name).unlink(missing_ok=True)
        for path in self.output_files():
            path.unlink()

    def first_block(self) -> tuple[int, Array] | None:
        """Return the view and the positions of the first finished block, or None."""
        blocks = blocks_of(*self.shape[:2])
        if not (self.folder / "manifest.json").exists():
            return None
        if (self.folder / SEAL).exists():
            return blocks[0][0], blocks[0][2]
        done = np.load(self.folder / "done.npy", mmap_mode="r")
        return next(((view, block) for view, n, block in blocks if done[view, n].any()), None)

    def engines(self) -> str | None:
        """Return the engines of the teachers, or None if they are not chosen or the file is damaged."""
        path = self.folder / "engine"
        words = path.read_bytes().split() if path.exists() else []
        known = bool(words) and ENGINES.issuperset(word.decode(errors="replace") for word in words)
        return path.read_text(encoding="utf-8") if known else None

    def _damage(self) -> str | None:
        """Return what is damaged, or None; a cache without a manifest is not begun."""
        if not (self.folder / "manifest.json").exists():
            return None
        if not self._is_current():
            return "manifest.json has other content, or a file is missing"
        if self.engines() is None:
            return "engine has other content"
        seal = self.folder / SEAL
        if seal.exists():
            whole = seal.read_bytes() == self._checksums().encode()
            return None if whole else f"the checksums in {SEAL} do not match"
        entries, shape = self._entries()
        return find_damage(self.folder, (np.dtype(entries), shape), self.output_files())

    def seal(self) -> Path:
        """Mark the cache as complete and return its logits.npy."""
        path = self.folder / "logits.npy"
        if processes.is_main_process():
            write_atomic(self.folder / SEAL, self._checksums())
        return path

    def _checksums(self) -> str:
        """Return the hash of the logits and, for each other output, a line with its hash and file name."""
        others = [f"{sha256_of(path)}  {path.name}" for path in self.output_files()]
        return "\n".join([sha256_of(self.folder / "logits.npy"), *others])

    def output_files(self) -> list[Path]:
        """Return the files of the teacher's other outputs."""
        return sorted(self.folder.glob(f"{OUTPUT}*.npy"))

    def output_name(self, path: Path) -> str:
        """Return the name of the output in a file."""
        return path.stem.removeprefix(OUTPUT)

    def open_outputs(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.memmap]:
        """Memory-map the files of other outputs for writing; `shapes` are the shapes of one sample."""
        opened = {}
        for name, shape in shapes.items():
            if not SAFE_NAME.fullmatch(name):
                raise ConfigError(f"teacher: output '{name}' cannot name a file; use letters, digits, '.', '_' and '-'")
            path = self.folder / f"{OUTPUT}{name}.npy"
            if not path.exists():
                self._create(path, (*self.shape[:2], *shape))
            opened[name] = np.lib.format.open_memmap(path, "r+")
        return opened

    def _create(self, path: Path, shape: tuple[int, ...]) -> None:
        """Create an empty float16 file, unless another process of the launch has created it."""
        scratch = self.folder / f".{processes.rank()}{PART}{path.name}"
        np.lib.format.open_memmap(scratch, "w+", np.float16, shape)
        try:
            os.link(scratch, path)
        except FileExistsError:
            pass  # another process has made it
        finally:
            scratch.unlink()

    def _is_current(self) -> bool:
        manifest = self.folder / "manifest.json"
        names = ("logits.npy", "done.npy", "engine")
        return (
            all((self.folder / name).exists() for name in names)
            and manifest.exists()
            and _read_manifest(manifest) == self._manifest()
        )

    def _manifest(self) -> dict[str, Any]:
        kept: dict[str, Any] = {"top_k": self.top_k} if self.top_k else {}
        kept |= {} if self.number == "float16" else {"number": self.number}
        return {"schema": SOFT_LABELS_SCHEMA, "fingerprint": self.fingerprint, "shape": list(self.shape)} | kept

    def _entries(self) -> tuple[npt.DTypeLike, tuple[int, ...]]:
        """Return the type and the shape of logits.npy."""
        if not self.top_k:
            return self.number, self.shape
        sample = self.shape[2:]
        kept = entry_type(sample[0], self.top_k) if len(sample) == 1 else cell_entry_type(sample, self.top_k)
        return kept, self.shape[:2]

    def open(self) -> tuple[np.memmap, np.memmap]:
        """Memory-map logits and checksums of blocks for writing; blocks of an earlier call with the same fingerprint are kept."""
        if processes.is_main_process() and not self._is_current():
            stale = (self.folder / "logits.npy", self.folder / SEAL, *self.output_files())
            for path in stale:  # runs can have hard links to the old files, so these are not overwritten
                path.unlink(missing_ok=True)
            np.lib.format.open_memmap(self.folder / "logits.npy", "w+", *self._entries())
            blocks = (self.shape[0], block_count(self.shape[1]), DIGEST_BYTES)
            np.lib.format.open_memmap(self.folder / "done.npy", "w+", np.uint8, blocks)
            write_json(
                self.folder / "manifest.json", self._manifest()
            )  # last, because it marks the other two files as valid
        processes.barrier()
        return (
            np.lib.format.open_memmap(self.folder / "logits.npy", "r+"),
            np.lib.format.open_memmap(self.folder / "done.npy", "r+"),
        )
