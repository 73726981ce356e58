"""Write docs/commands.md, every command's help as the terminal shows it: python tests/help_texts.py > docs/commands.md."""

import click
from click.testing import CliRunner

from edgedistill.cli.main import cli


def sections(command: click.Command, name: list[str]) -> list[str]:
    """Return a command's help as Markdown, and those of its own commands."""
    shown = CliRunner().invoke(cli, [*name, "--help"], prog_name="edgedistill", terminal_width=100).output
    found = [f"## {' '.join(['edgedistill', *name])}\n\n```text\n{shown}```\n"]
    for each, child in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
        found += sections(child, [*name, each])
    return found


if __name__ == "__main__":
    print("# Commands\n\nWritten by `tests/help_texts.py` from the commands themselves.\n")
    print("\n".join(sections(cli, [])), end="")
