import numpy as np
import pytest
from onnx import helper

from edgedistill.graphs.index import Edits, Index, Names, drop_unread, lift_constants, name_nodes
from tests.support.small_onnx import text_model

CHAIN = "(float[1, 4] x) => (float[1, 4] y) { a = Relu(x) b = Add(a, w) y = Add(b, a) }"


@pytest.fixture
def model():
    return text_model(CHAIN, 13, w=np.ones(4, np.float32))


def test_a_new_name_is_the_nearest_that_is_free():
    names = Names(["a", "a_1", "b_1"])
    assert [names.new(name) for name in ("a", "a", "b", "b", "c", "c")] == ["a_2", "a_3", "b", "b_2", "c", "c_1"]


def test_the_index_knows_producers_readers_and_stored_tensors(model):
    index = Index.of(model.graph)
    assert index.producer["b"].op_type == "Add"
    assert [node.output[0] for node in index.users["a"]] == ["b", "y"]
    assert (index.readers["a"], index.readers["y"], index.readers["x"]) == (2, 1, 1)
    np.testing.assert_array_equal(index.value("w"), np.ones(4))
    assert index.value("a") is None


def test_edits_are_made_in_their_places_when_the_block_ends(model):
    relu, first, last = model.graph.node
    with Edits(model.graph) as edits:
        edits.insert_after(None, node("start"))
        edits.insert_after(relu, node("second"))
        edits.insert_after(relu, node("first"))
        edits.insert_before(last, node("third"))
        edits.insert_before(last, node("fourth"))
        edits.remove(first)
        assert edits.store("w", np.zeros(2, np.float32)) == "w_1"
        assert len(model.graph.node) == 3
    assert [each.output[0] for each in model.graph.node] == ["start", "a", "first", "second", "third", "fourth", "y"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "w_1"]


def fail_after_an_edit(graph):
    with Edits(graph) as edits:
        edits.remove(graph.node[0])
        raise ValueError("stop")


def test_an_error_leaves_the_nodes_as_they_were(model):
    with pytest.raises(ValueError, match="stop"):
        fail_after_an_edit(model.graph)
    assert len(model.graph.node) == 3


def test_constants_are_stored_and_unread_tensors_dropped(model):
    constant = text_model(
        "(float[1, 1] x) => (float[1, 1] y) { c = Constant<value = float[1] {2.0}>() y = Add(x, c) }", 13
    )
    lift_constants(constant.graph)
    assert [each.op_type for each in constant.graph.node] == ["Add"]
    assert [tensor.name for tensor in constant.graph.initializer] == ["c"]
    with Edits(model.graph) as edits:
        edits.store("unread", np.ones(3))
    drop_unread(model.graph)
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]


def test_every_node_gets_a_name_of_its_own(model):
    model.graph.node[0].name = model.graph.node[1].name = "b"
    name_nodes(model.graph)
    assert [each.name for each in model.graph.node] == ["b", "b_1", "y"]


def node(name):
    return helper.make_node("Relu", ["x"], [name], name=name)
