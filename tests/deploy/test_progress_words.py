"""What a device writes while it measures, as the user reads it."""

import pytest

from edgedistill.deploy.progress_words import Voice


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bench local-ort-int8 check top1 0.9917", "bench: pc, student int8: check, accuracy 99.17%"),
        ("bench local-ort-int8 process 1/3 p50 0.037 ms", "bench: pc, student int8: process 1/3, p50 37 µs"),
        ("bench local-ort-int8 process 1/3 p50 3.700 ms", "bench: pc, student int8: process 1/3, p50 3.700 ms"),
        ("bench other check top1 0.9917", "bench other check top1 0.9917"),
        ("the phone is warm", "the phone is warm"),
    ],
)
def test_lines_have_the_names_of_the_configuration(line: str, said: str) -> None:
    lines: list[str] = []
    Voice(lines.append, {"local-ort-int8": "pc, student int8"}, "accuracy")(line)
    assert lines == [said]
