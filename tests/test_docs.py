"""The documents: each is a user's session, and every command of it is run as it is written, in a folder of its own.

The session of FIRST comes before all others: they begin with the run that it makes.

A block of `sh` is run by bash, one of `python` by Python. The title of a block is the file that it goes into, or one of NOT_HERE,
whose commands need what no test machine has.
"""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edgedistill.cli.main import cli
from tests.architecture import picture
from tests.support.browser import CHROMIUM, chromium
from tests.support.command import edgedistill
from tests.support.sshd import SSHD, Sshd

ROOT = Path(__file__).resolve().parents[1]

FIRST = "photos-to-phone"
GENERATED = {"commands", "configuration", "python", "zoo"}
DOCUMENTS = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem not in GENERATED)
TO_READ = {"index", "concepts", "measured", "robustness", "faq", "comparison"}
"""Documents without a session."""
NEED_MODELS = {"foreign-detectors", "text", "vision-transformers"}
"""Documents whose commands need a published model, which is not here; other tests run the same commands with small models."""
NOT_HERE = {"on a Jetson", "with a phone"}
"""Commands for devices: the kit and the adb transport have tests of their own, with what stands in for a device."""
BROWSER = "with a browser"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title, and its text."""

    language: str
    title: str | None
    text: str


def blocks(name: str) -> list[Block]:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    found = [Block(*parts) for parts in BLOCK.findall(text)]
    assert len(found) == len(re.findall(r"^```\w", text, re.MULTILINE)), (
        f'{name}: begin blocks as ```sh or ```sh title="FILE"'
    )
    return [Block(block.language, block.title or None, block.text) for block in found]


def photos(folder: Path) -> None:
    """Write a folder of small pictures, of three kinds."""
    digits = load_digits()
    for i in np.flatnonzero(digits.target < 3):
        path = folder / ("daisy", "rose", "tulip")[digits.target[i]] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15.9).astype(np.uint8)).resize((16, 16)).save(path)


def session(script: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        script, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The command line on the path, one thread, and a cache of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    cache = str(tmp_path_factory.mktemp("cache"))
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "EDGEDISTILL_CACHE": cache, "COLUMNS": "100"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """What the documents begin with: pictures, and two finished runs, made by the first blocks of FIRST."""
    folder = tmp_path_factory.mktemp("home")
    photos(folder / "photos")
    for block in blocks(FIRST)[: beginning(FIRST)]:
        perform(block, folder, environment)
    shutil.copytree(folder / "runs" / "flowers", folder / "runs" / "released")
    return folder


def beginning(name: str) -> int:
    """Return the number of blocks of FIRST up to its first run, which are not repeated; 0 for other documents."""
    if name != FIRST:
        return 0
    return 1 + next(i for i, block in enumerate(blocks(name)) if block.text.startswith("edgedistill run "))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The host `board` of the documents, in the SSH configuration of ours and of OpenSSH's programs."""
    if SSHD is None:
        pytest.skip("sshd is not here; Debian has it in openssh-server")
    device = Sshd(tmp_path_factory.mktemp("board"))
    ssh = device.home / ".ssh"
    (ssh / "config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {device.port}\n  IdentityFile {ssh}/id_ed25519\n"
        f"  UserKnownHostsFile {ssh}/known_hosts\n"
    )
    (ssh / "id_ed25519").chmod(0o600)
    programs = device.folder / "bin"
    programs.mkdir()
    # OpenSSH's programs look for their configuration in the account's home folder, whatever HOME says.
    for name in ("ssh", "scp"):
        (programs / name).write_text(f'#!/bin/sh\nexec {shutil.which(name)} -F {ssh}/config "$@"\n')
        (programs / name).chmod(0o755)
    yield {"HOME": str(device.home), "PATH": str(programs)}
    device.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in NEED_MODELS | TO_READ])
def test_a_document_does_as_it_says(
    name: str, home: Path, environment: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if any("board" in block.text for block in blocks(name) if block.language == "sh"):
        device = request.getfixturevalue("board")
        environment = environment | device | {"PATH": f"{device['PATH']}{os.pathsep}{environment['PATH']}"}
    folder = Path(shutil.copytree(home, tmp_path / "session"))
    ran = 0
    for block in blocks(name)[beginning(name) :]:
        ran += perform(block, folder, environment)
    assert ran > 0


def perform(block: Block, folder: Path, environment: dict[str, str]) -> int:
    """Write a block's file, or run it; return how many were run."""
    if block.title in NOT_HERE:
        return 0
    if block.title == BROWSER:
        visit(block.text, folder, environment)
        return 1
    if block.title is not None:
        path = folder / block.title
        assert path.resolve().is_relative_to(folder.resolve())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        return 0
    parts = lines(block.text) if block.language == "sh" else [block.text]
    for part in parts:
        done = result_of(block.language, part, folder, environment)
        assert done.returncode == 0, f"{part}\n{done.stdout}\n{done.stderr}"
    return len(parts)


def lines(text: str) -> list[str]:
    """Return the lines of a shell session, without comments; a line that ends with a backslash goes on."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


def result_of(language: str, text: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell session, or a Python program.

    A line that is only a command of edgedistill is run by a process that has already imported what commands import.
    """
    if language == "python":
        return session([sys.executable, "-c", text], folder, environment)
    words = shlex.shlex(text, posix=True, punctuation_chars="();<>|&")
    words.whitespace_split = True
    command, *arguments = words
    if command == "edgedistill" and not {">", "<", "|", "||", "&&", ";"} & set(arguments):
        return edgedistill(*arguments, cwd=folder, **environment)
    return session(["bash", "-euo", "pipefail", "-c", text], folder, environment)


def visit(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the server, and open its link as someone who scans the code does."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    server = subprocess.Popen(
        ["bash", "-c", f"exec {command.strip()} --host 127.0.0.1"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    link = server.stdout.readline().strip()
    if not link.startswith("https://"):
        said = server.communicate()[1]
        if "fetched" in said or "urlopen" in said:
            pytest.skip(f"onnxruntime-web is not here, and npm cannot be reached: {said}")
        raise AssertionError(said)

    async def measure() -> None:
        async with chromium("--ignore-certificate-errors") as page:
            await page.open(link)
            await page.until("document.getElementById('form')?.hidden === false")
            await page.evaluate("document.querySelector('#effort option').value = '3x0.2'")
            await page.evaluate("document.getElementById('start').click()")
            await page.until("document.body.dataset.state === 'done'", 300)

    asyncio.run(measure())
    _, said = server.communicate(timeout=600)
    assert server.returncode == 0, said


def test_what_is_not_run_is_only_for_devices_and_published_models() -> None:
    assert {
        name for name in DOCUMENTS if not any(block.language in {"sh", "python"} for block in blocks(name))
    } == NEED_MODELS | TO_READ
    titles = {block.title for name in DOCUMENTS for block in blocks(name) if block.language == "sh" and block.title}
    assert {title for title in titles if "." not in title} <= NOT_HERE | {BROWSER}


def test_the_help_texts_are_those_of_the_commands() -> None:
    command = [sys.executable, str(ROOT / "tests" / "help_texts.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written.split() == done.stdout.split(), "write it again: python tests/help_texts.py > docs/commands.md"


@pytest.mark.slow
def test_the_reference_pages_are_those_of_the_code(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "reference_pages.py")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_text() for path in tmp_path.glob("*.md")}
    assert set(written) == {f"{name}.md" for name in GENERATED - {"commands"}}
    for name, text in written.items():
        assert (ROOT / "docs" / name).read_text() == text, "write it again: python tests/reference_pages.py"


def test_the_picture_is_that_of_its_source() -> None:
    assert (ROOT / "docs" / "architecture.svg").read_text() == picture()


def test_the_site_has_every_page() -> None:
    config = (ROOT / "docs" / "zensical.toml").read_text()
    named = re.findall(r'= "([\w-]+)\.md"', config)
    assert sorted(named) == sorted({*DOCUMENTS, *GENERATED}), "add the page to nav in docs/zensical.toml"


COMMANDS = [
    line
    for path in ("README.md", "CONTRIBUTING.md")
    for line in re.findall(
        r"(?:^|`)(edgedistill [a-z][^`\n]*)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
    )
]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_readme_speaks_of_commands_and_options_that_there_are(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    while words and isinstance(command, click.Group):
        name = words.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known | {"--help"}


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in DOCUMENTS)])
def test_links_lead_somewhere(path: str) -> None:
    file = ROOT / path
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text(encoding="utf-8")):
        assert (file.parent / link).exists(), link
