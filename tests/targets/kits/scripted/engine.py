"""A real engine of the harness's contract, small enough to misbehave on purpose: its model is a JSON script."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np


def describe():
    return {"name": "scripted", "version": np.__version__}


def compile(model, out, precision, threads):  # noqa: A001
    script = json.loads(model.read_text(encoding="utf-8"))
    if "refuse" in script:
        raise RuntimeError(script["refuse"])
    (out / "model.json").write_text(json.dumps(script), encoding="utf-8")
    return {"entry": "model.json", "files": ["model.json"], "extras": []}


def load(entry, precision, threads):
    script = json.loads(entry.read_text(encoding="utf-8"))
    if "pid_file" in script:
        Path(script["pid_file"]).write_text(str(os.getpid()), encoding="utf-8")
    if "raises_in_threads" in script and threading.current_thread() is not threading.main_thread():
        raise RuntimeError("not in a thread")
    print("engines print what they like")
    return Session(script, script.get("threads", threads))


def turn_on(counter):
    """Add 100 microjoules to a recorded RAPL counter, which wraps around; at once, as a kernel does."""
    turned = (int(counter.read_text(encoding="ascii")) + 100) % 262143328850
    scratch = counter.with_name("turned")
    scratch.write_text(str(turned), encoding="ascii")
    scratch.replace(counter)


class Together:
    """Counts the inferences that run at once, and keeps the most in a file."""

    lock, running, most = threading.Lock(), 0, 0

    @classmethod
    def count(cls, change, file):
        with cls.lock:
            cls.running += change
            cls.most = max(cls.most, cls.running)
            file.write_text(str(cls.most), encoding="ascii")


class Session:
    def __init__(self, script, threads):
        self.inputs = ["x"]
        self.script, self.count, self._threads = script, 0, threads
        self.held = bytearray(b"\1") * script.get("hold_bytes", 0)

    def set(self, feed):
        self.x = feed["x"]

    def infer(self):
        self.count += 1
        script = self.script
        if self.count == script.get("dies_at"):
            os.kill(os.getpid(), getattr(signal, script["signal"]))
        if self.count == script.get("raises_at"):
            raise ValueError("first line\n\nsecond line")
        time.sleep(0.00005 * max(0, script.get("cold_inferences", 0) - self.count))
        if "together" in script:
            Together.count(1, Path(script["together"]))
        slow = self.count >= script.get("slow_from", float("inf"))
        time.sleep(script["slow_seconds"] if slow else script.get("seconds", 0.0))
        if "together" in script:
            Together.count(-1, Path(script["together"]))
        if "counter" in script:
            turn_on(Path(script["counter"]))
        self.y = self.x * np.float32(script.get("factor", 1.0))

    def outputs(self):
        if self.script.get("grows"):
            return {"y": np.zeros((1, self.count), np.float32)}
        return {"y": self.y, **{name: factor * self.x for name, factor in self.script.get("outputs", {}).items()}}

    def threads(self):
        return self._threads

    def executed(self):
        return self.script.get("executed", {"fp32": 1}), self.script.get("unknown")
