"""Why a stage runs again, in a line."""

import pytest

from edgedistill.pipeline.staleness import explain_stale

ENTRY = {
    "config": {"distill": {"epochs": 4, "loss": "kd"}, "files": ["ab" * 32], "mean": None},
    "parents": {"data": "1", "student": "2"},
    "versions": {"torch": "2.9"},
}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "an output file is missing or was changed"),
        ({"config": {"distill": {"epochs": 6, "loss": "kd"}}}, "distill.epochs 4 \u2192 6"),
        ({"config": {"files": ["cd" * 32]}}, "files.0 changed"),
        ({"config": {"mean": (0.5,)}}, "mean changed"),
        ({"config": {"lr": 0.1}}, "lr not set \u2192 0.1"),
        ({"parents": {"student": "3"}}, "a new student"),
        ({"versions": {"torch": "2.10"}}, "torch 2.9 \u2192 2.10"),
        ({"config": {f"key{i}": i for i in range(5)}},
         "key0 not set \u2192 0; key1 not set \u2192 1; key2 not set \u2192 2 and 2 more"),
    ],
)  # fmt: skip
def test_what_changed(changes, why):
    now = {key: value | changes.get(key, {}) for key, value in ENTRY.items()}
    assert explain_stale(ENTRY, now["config"], now["parents"], now["versions"]) == why


def test_what_has_not_run():
    assert explain_stale(None, {}, {}, {}) == "not run yet"
