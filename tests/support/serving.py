"""The server as a user starts it, and what it serves."""

import subprocess
import threading
from dataclasses import dataclass, field


@dataclass
class Served:
    """A server: its links, outside and on this machine, and what it said."""

    process: subprocess.Popen[str]
    links: list[str]
    said: list[str] = field(default_factory=list)
    listener: threading.Thread | None = None

    def end(self) -> int:
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert self.listener is not None
        self.listener.join()
        return code


def listen(served: Served) -> None:
    assert served.process.stderr is not None
    with served.process.stderr as lines:
        for line in lines:
            served.said.append(line.rstrip())
