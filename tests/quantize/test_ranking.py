"""The order in which layers go back to float: by time where the intervals decide, else by size, else by the graph."""

import pytest

from edgedistill.quantize.ranking import by_time, by_weight, negligible
from edgedistill.records.quantize_steps import LayerSensitivity


def layer(name: str, error: float, saved: tuple[float, float] | None, weights: int = 100) -> LayerSensitivity:
    return LayerSensitivity(layer=name, output_error=error, drop=0.0, weights=weights, saved_us_ci95=saved)


def order(*layers: LayerSensitivity) -> list[str]:
    return [one.layer for one in by_time(layers)]


def test_times_decide_where_their_intervals_do():
    slow, quick = layer("saves little", 0.1, (0.9, 1.1)), layer("saves much", 0.2, (9.0, 11.0))
    assert order(quick, slow) == order(slow, quick) == ["saves little", "saves much"]
    assert [one.layer for one in by_weight((slow, quick))] == ["saves much", "saves little"]


@pytest.mark.parametrize(("shift", "width"), [(0.9, 1.0), (1.0, 1.0), (1.1, 1.1)])
def test_savings_that_cannot_be_told_apart_are_ordered_without_them(shift, width):
    one, other = layer("more", 0.11, (0.8 * shift, 1.3 * shift * width)), layer("less", 0.1, (0.9, 1.2))
    assert order(one, other) == order(other, one) == ["more", "less"]


def test_a_layer_that_saves_nothing_goes_first_and_one_that_may_save_nothing_goes_with_it():
    nothing, unsure, sure = (
        layer("nothing", 0.01, (-2.0, -1.0)),
        layer("unsure", 0.02, (-1.0, 3.0)),
        layer("sure", 0.5, (1, 2)),
    )
    assert order(sure, nothing, unsure) == ["unsure", "nothing", "sure"]
    assert order(sure, layer("unsure", 0.9, (-1.0, 3.0))) == ["unsure", "sure"]
    assert order(sure, layer("unsure", 0.1, (-1.0, 3.0))) == ["sure", "unsure"], "its error is smaller"
    assert order(sure, layer("not measured", 0.1, None)) == ["sure", "not measured"]


def test_equal_layers_stay_in_the_order_of_the_graph():
    twins = [layer(name, 0.1, (1.0, 2.0)) for name in "cab"]
    assert order(*twins) == ["c", "a", "b"]
    assert [one.layer for one in by_weight(twins)] == ["c", "a", "b"]


def test_layers_with_negligible_errors_are_the_last():
    tiny = [layer("tiny", 0.0001, None, 1), layer("tiniest", 0.0001, (-2.0, -1.0))]
    assert order(*tiny, layer("sure", 0.5, (1, 2))) == ["sure", "tiny", "tiniest"]
    assert negligible([*tiny, layer("sure", 0.5, (1, 2))]) == {"tiny", "tiniest"}
    assert negligible(tiny) == set()
