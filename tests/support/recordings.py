"""Planting recorded files where a test reads them, and the texts of recorded programs."""

from pathlib import Path

RECORDED = Path(__file__).resolve().parents[1] / "targets" / "recorded"


def recorded(name):
    """Return a recorded text without the lines that say where it is from."""
    lines = (RECORDED / name).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("# "))


def parts(name):
    """Return the outputs in a text of several."""
    return recorded(name).split("----\n")[1:]


def plant(name, root: Path) -> Path:
    """Write the files of a recorded tree below a folder, and return the folder."""
    for line in recorded(name).splitlines():
        path, _, content = line.partition(" = ")
        write(root, path, content)
    return root


def write(root: Path, path: str, content: str) -> None:
    """Write one file of a device, over another that may be there."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if content == "!EIO":  # reading the memory of no address is an input/output error
        file.unlink(missing_ok=True)
        file.symlink_to("/proc/self/mem")
    elif content.startswith("!link "):
        file.symlink_to(content.removeprefix("!link "))
    else:
        file.write_text(content.replace("\\n", "\n") + "\n", encoding="utf-8")
