"""CUDA through ctypes, as a Jetson has neither pycuda nor cuda-python: GPU properties, and calls to load and time."""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import sys
from typing import Any, List, NamedTuple, Optional, Tuple

RUNTIMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
# A command over SSH gets no LD_LIBRARY_PATH from the shell's profile.
FOLDERS = (
    "/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib", "/usr/local/cuda/targets/sbsa-linux/lib",
    "/usr/local/cuda/targets/x86_64-linux/lib",
)  # fmt: skip
MAJOR, MINOR, MULTIPROCESSORS = 75, 76, 16  # CUdevice_attribute
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
NON_BLOCKING = 1  # cudaStreamNonBlocking
SPIN = 1  # cudaDeviceScheduleSpin
THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal


class CudaError(RuntimeError):
    """CUDA is absent, or a CUDA call failed."""


class Gpu(NamedTuple):
    """The GPU properties that an engine plan depends on: name, compute capability ("8.7") and number of multiprocessors."""

    name: str
    compute_capability: str
    multiprocessors: int

    @property
    def spelt(self) -> str:
        """All properties as text."""
        return f"{self.name}, compute capability {self.compute_capability}, {self.multiprocessors} multiprocessors"


@functools.lru_cache(maxsize=None)
def gpu() -> Gpu:
    """Return the first GPU as the driver describes it; raise CudaError where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise CudaError("no NVIDIA driver was found (libcuda.so.1); start a container with --runtime nvidia") from None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    _driver(driver, "cuInit", ctypes.c_uint(0))
    _driver(driver, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
    _driver(driver, "cuDeviceGetName", name, ctypes.c_int(len(name)), device)
    major, minor, count = (_attribute(driver, device, number) for number in (MAJOR, MINOR, MULTIPROCESSORS))
    return Gpu(name.value.decode("utf-8", "replace"), f"{major}.{minor}", count)


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    _driver(driver, "cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
    return value.value


def _driver(driver: ctypes.CDLL, name: str, *arguments: Any) -> None:
    code = getattr(driver, name)(*arguments)
    if code:
        raise CudaError(
            f"the NVIDIA driver has no usable GPU: {name} returned {code}; nvidia-smi or dmesg may show why"
        )


@functools.lru_cache(maxsize=None)
def runtime() -> "Runtime":
    """Return libcudart, loaded once per process."""
    found = (path for folder in _folders() for path in sorted(glob.glob(os.path.join(folder, "libcudart.so*"))))
    for name in (*RUNTIMES, *found):
        library = _opened(name)
        if library is not None:
            return Runtime(library)
    raise CudaError(f"libcudart was found neither by the loader nor in {FOLDERS[0]}; install CUDA's runtime")


def _folders() -> List[str]:
    """Return the folders to search for libcudart beside the loader's paths, pip's packages last."""
    return [*FOLDERS, *(os.path.join(entry, "nvidia", "*", "lib") for entry in sys.path)]


def _opened(name: str) -> Optional[ctypes.CDLL]:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


class Buffer(NamedTuple):
    """Memory of one tensor: addresses on the device and, pinned, on the host; `bytes` long."""

    device: int
    host: int
    bytes: int


class Runtime:
    """The calls of libcudart that are used here; a call that fails raises CudaError with CUDA's error message."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p
        # Argument types are declared once: these calls are timed, and ctypes needs a microsecond to infer a type.
        address, stream = ctypes.c_void_p, ctypes.c_void_p
        library.cudaMemcpyAsync.argtypes = [address, address, ctypes.c_size_t, ctypes.c_int, stream]
        library.cudaEventRecord.argtypes = [ctypes.c_void_p, stream]
        library.cudaGraphLaunch.argtypes = [ctypes.c_void_p, stream]
        library.cudaStreamSynchronize.argtypes = [stream]
        self.call("cudaSetDeviceFlags", ctypes.c_uint(SPIN))

    def call(self, name: str, *arguments: Any) -> None:
        """Make one call."""
        code = getattr(self._library, name)(*arguments)
        if code:
            words = self._library.cudaGetErrorString(code) or b"?"
            raise CudaError(f"{name}: {words.decode('utf-8', 'replace')} ({code})")

    def buffer(self, size: int) -> Buffer:
        """Return memory on the device and pinned memory on the host, which live as long as the process."""
        device, host, room = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t(max(size, 1))
        self.call("cudaMalloc", ctypes.byref(device), room)
        self.call("cudaHostAlloc", ctypes.byref(host), room, ctypes.c_uint(0))
        return Buffer(int(device.value or 0), int(host.value or 0), size)

    def stream(self) -> int:
        """Return a new stream that does not wait for the default one."""
        made = ctypes.c_void_p()
        self.call("cudaStreamCreateWithFlags", ctypes.byref(made), ctypes.c_uint(NON_BLOCKING))
        return int(made.value or 0)

    def event(self) -> int:
        """Return a new event with a timestamp."""
        made = ctypes.c_void_p()
        self.call("cudaEventCreateWithFlags", ctypes.byref(made), ctypes.c_uint(0))
        return int(made.value or 0)

    def elapsed_ns(self, begin: int, end: int) -> int:
        """Return the time between two completed events."""
        milliseconds = ctypes.c_float()
        self.call("cudaEventElapsedTime", ctypes.byref(milliseconds), ctypes.c_void_p(begin), ctypes.c_void_p(end))
        return round(milliseconds.value * 1e6)

    def free_bytes(self) -> Tuple[int, int]:
        """Return the free and the total memory of the device; on a Jetson both are those of the board."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def begin_capture(self, stream: int) -> None:
        """Start recording the work enqueued on a stream instead of running it."""
        self.call("cudaStreamBeginCapture", ctypes.c_void_p(stream), ctypes.c_int(THREAD_LOCAL))

    def end_capture(self, stream: int) -> Optional[int]:
        """Return the recorded work as a graph that can be launched."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        self.call("cudaGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        return ready.value
