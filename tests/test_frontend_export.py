"""Files written again: the names of their nodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tcompile.frontend.export import export, node_names
from tcompile.ir import real as R
from tcompile.ir.graph import Origin, TensorType
from tests.models import Net, real_graph

KIND = TensorType("float32", (1, 2))
OPERATORS = {"Relu": R.Relu, "Neg": R.Neg, "Abs": R.Abs}


def node(value: str, op: str, *origin: tuple[str, str]) -> R.RealNode:
    return OPERATORS[op](name=value, inputs=("x",), type=KIND, origin=Origin(origin))


def test_nodes_keep_their_names():
    net = Net()
    y = net.op("Relu", net.op("Conv", net.input((1, 1, 3, 3), "float32"), net.const([[[[2.0]]]])))
    names = [n.name for n in export(real_graph(net.model(y))).graph.node]
    assert names == ["conv_0", "relu_1"]


def test_of_several_that_of_the_same_operator_keeps_the_name():
    nodes = [node("a", "Neg", ("/act/Relu", "Relu")), node("b", "Relu", ("/act/Relu", "Relu"))]
    assert node_names(nodes) == {"b": "/act/Relu", "a": "/act/Relu_Neg"}


def test_the_first_keeps_it_where_none_is_of_the_operator():
    nodes = [node("a", "Neg", ("act", "Relu")), node("b", "Neg", ("act", "Relu"))]
    assert node_names(nodes) == {"a": "act", "b": "act_Neg"}


def test_merged_nodes_go_by_the_one_whose_operator_they_are():
    assert node_names([node("a", "Relu", ("first", "Relu"), ("second", "Neg"))]) == {"a": "first"}


def test_nodes_of_no_node_go_by_their_values():
    assert node_names([node("a", "Relu")]) == {"a": "a"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*OPERATORS]), st.sampled_from(["a", "a_Neg", "v0", "v1"]), st.sampled_from([*OPERATORS])
        )
    )
)
def test_names_are_unique_and_those_of_other_operators_never_take_a_name(drawn):
    nodes = [node(f"v{k}", op, (name, was)) for k, (op, name, was) in enumerate(drawn)]
    found = node_names(nodes)
    assert len(set(found.values())) == len(found) == len(nodes)
    for op, name, was in drawn:
        if op == was:
            assert any(found[n.name] == name and (name, n.op) in n.origin.nodes for n in nodes)
