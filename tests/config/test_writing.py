"""A configuration written as TOML is read as the same configuration."""

from pathlib import Path

import pytest

from edgedistill.config.load import load_config, parse_text
from edgedistill.config.writing import to_toml

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "edgedistill/config/demo.toml", *sorted((ROOT / "benchmarks").glob("*/edgedistill.toml"))]
ODD = """
name = "odd"
[data]
train = "samples.npz"
inputs = { "left eye" = { mean = [0.5] }, right = { kind = "signal" } }
[[teacher]]
model = "zoo:resnet8"
[[teacher]]
model = "zoo:resnet20"
lr = 1e-12
[student]
prune = 0.5
[[target]]
name = "pc"
kit = "ort"
budget = { p95_ms = 5.0 }
"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_files_read_as_they_were(file: Path) -> None:
    config = load_config(file)
    assert parse_text(to_toml(config), file) == config


def test_quotes_odd_keys_and_tables_in_tables() -> None:
    config = parse_text(ODD, Path("odd.toml"))
    changed = config.model_copy(update={"data": config.data.model_copy(update={"train": 'a "b" \\ ü\u007f\n'})})
    assert parse_text(to_toml(changed), Path("odd.toml")) == changed


def test_an_override_is_written_with_the_value_that_was_used() -> None:
    config = load_config(FILES[0], ("distill.epochs=2",))
    assert parse_text(to_toml(config), FILES[0]).distill.epochs == 2
