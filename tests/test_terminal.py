"""What a terminal, a pipe and a shell see."""

import os
import pty
import re
import subprocess
import sys

import pytest

from edgedistill.runtime.progress import Reporter

COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|4[0-7]|9[0-7]|38|48)[;m]")
CONTROL = "\x1b["
WORK = """
from edgedistill.runtime.progress import Reporter
report = Reporter(verbose={verbose})
with report.track("training", 3) as advance:
    for step in range(3):
        advance(1, "loss 0.5")
        report.log_step(f"step {{step}}")
report.info("done")
"""


def seen_on_a_terminal(verbose: bool = False, **environment: str) -> str:
    """Run some work under a pseudo-terminal and return all that it wrote."""
    ours, theirs = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK.format(verbose=verbose)], stdout=theirs, stderr=theirs,
        env=clean | {"TERM": "xterm-256color", "COLUMNS": "80"} | environment,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 4096):
            written += block
    except OSError:  # the other end is closed, which Linux tells by an error
        pass
    assert process.wait() == 0
    os.close(ours)
    return written.decode()


def test_a_terminal_has_a_coloured_bar_with_the_time_left():
    text = seen_on_a_terminal()
    assert COLOUR.search(text)
    assert "training" in text
    assert re.search(r"\d:\d\d:\d\d", text)
    assert "step 1" not in text


def test_no_color_is_heeded():
    text = seen_on_a_terminal(NO_COLOR="1")
    assert "done" in text
    assert not COLOUR.search(text)


def test_verbose_leaves_nothing_to_a_bar():
    assert "step 1" in seen_on_a_terminal(verbose=True)


def test_a_pipe_has_plain_lines():
    result = subprocess.run(
        [sys.executable, "-c", WORK.format(verbose=False)], env=os.environ | {"TERM": "xterm-256color"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert CONTROL not in result.stderr
    assert "step 1" in result.stderr
    assert result.stdout == ""


def test_quiet_says_nothing(capsys):
    report = Reporter(quiet=True, verbose=True)
    report.info("one")
    report.log_step("two")
    report.debug("three")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete"), ("zsh", "compdef"), ("fish", "complete")])
def test_shells_complete_commands_and_options(shell, word):
    def asked(**environment: str) -> str:
        command = "from edgedistill.cli.main import main; import sys; sys.argv = ['edgedistill']; main()"
        return subprocess.run(
            [sys.executable, "-c", command], env=os.environ | environment, capture_output=True, text=True, check=False
        ).stdout

    script = asked(_EDGEDISTILL_COMPLETE=f"{shell}_source")
    assert word in script
    assert f"{shell}_complete" in script
    if shell == "bash":
        found = asked(_EDGEDISTILL_COMPLETE="bash_complete", COMP_WORDS="edgedistill comp", COMP_CWORD="1")
        assert found.split() == ["plain,compare", "plain,compile"]
        found = asked(_EDGEDISTILL_COMPLETE="bash_complete", COMP_WORDS="edgedistill compare --fa", COMP_CWORD="2")
        assert found.split() == ["plain,--fail-if"]
