"""A device that is not what it should be: it takes the place of python3 behind a real sshd, and behaves as a file says.

The file `behaviour` beside this program has the name of a function below. A device that lies plays the recording in the folder
`recorded`: the answer on stdout, and the files that a device returns.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ZEROS = b"0" * 65536


def send(**event):
    raw(json.dumps(event).encode() + b"\n")


def raw(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def hang(_job):
    time.sleep(3600)


def garbage(_job):
    raw(bytes(range(256)) * 4 + b"\n")


def partial_json(_job):
    raw(b'{"event": "exit", "code": 0, "na\n')


def deep_json(_job):
    raw(b'{"event": ' + b"[" * 60_000 + b"\n")


def other_event(_job):
    send(event="missing", hashes=[])


def negative_size(_job):
    send(event="exit", code=0, names=[], bytes=-1)


def endless_line(_job):
    while True:
        raw(ZEROS)


def endless_lines(_job):
    while True:
        raw(b"".join(json.dumps({"event": "line", "text": f"{number} " * 9}).encode() + b"\n" for number in range(500)))


def endless_log(_job):
    while True:
        sys.stderr.buffer.write(ZEROS)


def endless_files(job):
    content = b"x" * (1 << 20)
    name = f"measurements/{job['arms'][0]['name']}.npz"
    while True:
        send(event="file", name=name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        raw(content)


def huge_file(job):
    send(event="file", name=f"measurements/{job['arms'][0]['name']}.npz", sha256="0" * 64, bytes=10**15)
    while True:
        raw(ZEROS)


def huge_output(_job):
    send(event="exit", code=0, names=[], bytes=10**12)
    while True:
        raw(ZEROS)


def file_elsewhere(_job):
    send(event="file", name="measurements/../../../stolen", sha256=hashlib.sha256(b"").hexdigest(), bytes=0)


def other_name(_job):
    send(event="file", name="measurements/local-ort-fp32.json", sha256=hashlib.sha256(b"").hexdigest(), bytes=0)


def disconnect(job):
    send(event="file", name=f"partial/{job['arms'][0]['name']}.json", sha256="0" * 64, bytes=1000)
    raw(b"{")
    sys.exit(0)


def damaged_file(job):
    send(event="file", name=f"measurements/{job['arms'][0]['name']}.json", sha256="0" * 64, bytes=2)
    raw(b"{}")


def escapes(_job):
    send(event="line", text="\x1b[2J\u202ebench \u009b0m" + "x" * 9000)
    send(event="error", text="\x1b]0;owned\x07 no\nsuch\x00thing")


def crash(_job):
    send(event="exit", code=-100, names=[], bytes=0)


def send_file(name, content):
    send(event="file", name=name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    raw(content)


def disconnect_between_files(_job):
    recorded = sorted((HERE / "recorded" / "measurements").iterdir())
    for path in recorded:
        send_file(f"partial/{path.name}", path.read_bytes())
    send(event="line", text="bench a process 1/2 p50 1.000 ms")
    send_file(f"partial/{recorded[0].name}", b"{}")
    sys.exit(0)


def replay(_job):
    recorded = HERE / "recorded"
    for path in sorted((recorded / "measurements").iterdir()):
        send_file(f"measurements/{path.name}", path.read_bytes())
    answer = (recorded / "answer").read_bytes()
    names = [f"measurements/{path.name}" for path in (recorded / "measurements").iterdir()]
    send(event="exit", code=0, names=names, bytes=len(answer))
    raw(answer)


def main():
    behaviour = (HERE / "behaviour").read_text()
    source = sys.stdin.buffer
    source.read(int(source.readline()))
    send(event="hello", python="3.11")
    while line := source.readline():
        request = json.loads(line)
        if request["op"] == "have":
            hashes = ["f" * 64] if behaviour == "unknown_hash" else []
            send(event="missing", hashes=hashes)
        elif request["op"] == "run":
            job = json.loads(request["texts"].get("job.json", "{}"))
            globals()[behaviour](job)
            time.sleep(0.2)


if __name__ == "__main__":
    main()
