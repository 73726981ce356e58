"""Which files read pixels: those whose answers are within the limits of int8."""

import pytest

from edgedistill.errors import ParityError
from edgedistill.export.forms import Variant, checked_form
from edgedistill.graphs.metadata import is_marked
from edgedistill.graphs.pixels import MARK
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.records.parity import Parity
from tests.graphs.test_pixels import PICTURES, usual

GOOD = Parity(max_abs_diff=0.0, agreement=1.0)


def refuse(model):
    raise ParityError("answers agree on 90 %")


def refuse_pixels(model):
    return refuse(model) if is_marked(model, MARK) else GOOD


@pytest.mark.parametrize(("check", "reads_pixels"), [(lambda _model: GOOD, True), (refuse_pixels, False)])
def test_a_file_that_answers_otherwise_normalizes_in_float(check, reads_pixels):
    canonical, _ = quantize_onnx(usual(), {"input": PICTURES})
    model, kept, parity = checked_form(canonical, Variant("int8", "u8-i32", 20), {"input": PICTURES}, check)
    assert is_marked(model, MARK) == reads_pixels
    assert (kept, parity) == ((), GOOD)


@pytest.mark.parametrize("encoding", ["u8-i32", "s8-i32"])
def test_a_file_that_is_wrong_in_both_forms_is_refused(encoding):
    canonical, _ = quantize_onnx(usual(), {"input": PICTURES})
    with pytest.raises(ParityError, match="90 %"):
        checked_form(canonical, Variant("int8", encoding, 20), {"input": PICTURES}, refuse)
