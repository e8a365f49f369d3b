"""`normalize` changes the form of a model and no bit of its results."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from tcompile import reference
from tcompile.errors import ModelError, Problem
from tcompile.frontend import load, normalize

SHARED = [
    "ad_alibaba", "brevitas/cnn_bn.qcdq", "brevitas/cnn_bn.qonnx", "brevitas/mlp_bn.qonnx", "brevitas/probe_ternary",
    "cifar_cnn_winml", "cifar_lenet_jnulzl", "cifar_resnet20", "cifar_resnet20_folded", "cifar_resnet20_onnc",
    "dronet_nemo_int_frontnet", "ece_gray96_fp32", "ece_gray96_int8_qdq", "fashion_mlp_shahjahan",
    "jsc_dense_big_keras", "jsc_three_layer_keras", "kws_speech_recog_squeezenet_winml", "mlperf_ad01_fp32",
    "mlperf_ad01_int8_qdq", "mlperf_dscnn_fp32", "mlperf_dscnn_int8_qdq", "mlperf_resnet8_fp32",
    "mlperf_resnet_large_fp32", "mlperf_resnet_large_int8_qdq", "mlperf_vww_mbv1_fp32", "mnist_cnn_codeman",
    "mnist_cnn_pool_pcelis", "mnist_lenet_fyh", "mnist_opt_wonnx", "qonnx_espcn_subpixel_quant",
    "qonnx_jettagging_6b", "qonnx_kwsmlp_w3a3", "qonnx_tfc_1w1a", "qonnx_tfc_1w2a", "qonnx_tfc_2w2a_ternary",
]  # fmt: skip


def model_of(body: str, opset: int = 18) -> ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>' + body)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def feeds(model: ModelProto, seed: int = 0, *, integers: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    if integers:
        return {name: rng.integers(-128, 128, shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: rng.normal(0, 2, shape).astype(np.float32) for name, shape in shapes.items()}


def bits(values: Mapping[str, np.ndarray]) -> dict[str, tuple[object, ...]]:
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in values.items()}


def assert_same(model: ModelProto, seed: int = 0, *, integers: bool = False) -> ModelProto:
    """Check that normalizing changes no bit; return the normal form."""
    normal = normalize(model)
    if all(not node.domain for node in normal.graph.node):
        onnx.checker.check_model(normal, full_check=True)
    x = feeds(model, seed, integers=integers)
    assert bits(reference.run(normal, x)) == bits(reference.run(model, x))
    return normal


def ops(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def attribute(model: ModelProto, name: str) -> object:
    (found,) = (helper.get_attribute_value(a) for n in model.graph.node for a in n.attribute if a.name == name)
    return found


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


# whole files


@pytest.mark.parametrize("name", SHARED)
def test_trained_networks_keep_every_bit(shared_model, name):
    loaded = load(shared_model(f"{name}.onnx"))
    onnx.checker.check_model(loaded.model, full_check=True)
    x = feeds(loaded.reference)
    assert bits(reference.run(loaded.model, x)) == bits(reference.run(loaded.reference, x))


def test_a_reshaped_weight_becomes_a_constant(shared_model):
    # onnxruntime packs constant weights before it multiplies, so that the sums of this one MatMul are in another order
    loaded = load(shared_model("mnist8_cntk.onnx"))
    x = feeds(loaded.reference)
    for model in (loaded.reference, loaded.model):
        model.graph.output.append(helper.make_empty_tensor_value_info("Pooling160_Output_0_reshape0"))
    one, two = reference.run(loaded.reference, x), reference.run(loaded.model, x)
    assert np.array_equal(one["Pooling160_Output_0_reshape0"], two["Pooling160_Output_0_reshape0"])
    (product,) = (n for n in loaded.model.graph.node if n.op_type == "MatMul")
    assert constants(loaded.model)[product.input[1]].shape == (256, 10)


def test_normal_form_is_a_fixed_point(shared_model):
    once = load(shared_model("cifar_resnet20.onnx")).model
    assert normalize(once).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_the_model_given_is_not_changed():
    model = model_of("g (float[1,4] x) => (float[1,4] y) { a = Identity(x) y = Clip <max = 1.0> (a) }", 7)
    before = model.SerializeToString(deterministic=True)
    normalize(model)
    assert model.SerializeToString(deterministic=True) == before


# removal


def test_nodes_that_do_nothing_are_removed():
    body = """g (float[1,4] x) => (float[1,4] y)
        { a = Identity(x) b, m = Dropout(a) c = Cast <to = 1> (b) d = Relu(c) y = Identity(d) }"""
    normal = assert_same(model_of(body))
    assert ops(normal) == ["Relu"]
    assert (normal.graph.node[0].input[0], normal.graph.node[0].output[0]) == ("x", "y")


def test_an_output_that_is_an_input_keeps_its_identity():
    assert ops(assert_same(model_of("g (float[1,4] x) => (float[1,4] y) { y = Identity(x) }"))) == ["Identity"]


def test_two_outputs_of_one_value_keep_both_names():
    body = "g (float[1,4] x) => (float[1,4] y, float[1,4] z) { a = Relu(x) y = Identity(a) z = Identity(a) }"
    assert ops(assert_same(model_of(body))) == ["Relu", "Identity"]


def test_an_output_that_others_use_is_renamed_everywhere():
    body = "g (float[1,4] x) => (float[1,4] y, float[1,4] z) { a = Relu(x) z = Neg(a) y = Identity(a) }"
    assert ops(assert_same(model_of(body))) == ["Relu", "Neg"]


def test_nodes_and_constants_without_use_are_dropped():
    body = "g (float[1,4] x) => (float[1,4] y) <float[4] w = {1,2,3,4}> { y = Relu(x) a = Add(x, w) b = Neg(a) }"
    normal = assert_same(model_of(body))
    assert ops(normal) == ["Relu"]
    assert not normal.graph.initializer


def test_a_real_cast_stays():
    assert ops(assert_same(model_of("g (float[1,4] x) => (int8[1,4] y) { y = Cast <to = 3> (x) }"))) == ["Cast"]


@pytest.mark.parametrize(
    "body", ["y, m = Dropout(x, , t)", "y = BatchNormalization <training_mode = 1> (x, w, w, w, w)"]
)
def test_training_mode_is_refused(body):
    text = f"g (float[1,4] x) => (float[1,4] y) <bool t = {{1}}, float[4] w = {{1,2,3,4}}> {{ {body} }}"
    with pytest.raises(ModelError, match="training mode"):
        normalize(model_of(text))


# constants


def test_constant_nodes_become_initializers():
    body = "g (float[1,4] x) => (float[1,4] y) { c = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> () y = Add(x, c) }"
    normal = assert_same(model_of(body))
    assert constants(normal)["c"].tolist() == [1, 2, 3, 4]


def test_shape_arithmetic_of_exporters_is_gone():
    body = """g (float[1,2,3,4] x) => (float[1,24] y) <int64 zero = {0}, int64[1] rest = {-1}, int64[1] axis = {0}>
        { s = Shape(x) n = Gather(s, zero) u = Unsqueeze(n, axis) t = Concat <axis = 0> (u, rest) y = Reshape(x, t) }"""
    normal = assert_same(model_of(body))
    assert ops(normal) == ["Reshape"]
    assert constants(normal)["t"].tolist() == [1, -1]


def test_shape_of_a_part_is_known():
    body = """g (float[1,2,3,4] x) => (float[2,12] y) <int64[1] rest = {-1}>
        { s = Shape <start = 1, end = -2> (x) t = Concat <axis = 0> (s, rest) y = Reshape(x, t) }"""
    assert ops(assert_same(model_of(body))) == ["Reshape"]


def test_constants_are_evaluated_in_one_run():
    body = """g (float[1,4] x) => (float[1,4] y) <float[4] w = {1,2,3,4}>
        { a = Sqrt(w) b = Exp(a) c = Mul(a, b) d = Sigmoid(c) e = Add(x, d) y = Add(e, b) }"""
    runs = []

    def evaluate(model: ModelProto, values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        runs.append(ops(model))
        return reference.run(model, values)

    assert ops(normalize(model_of(body), evaluate)) == ["Add", "Add"]
    assert runs == [["Sqrt", "Exp", "Mul", "Sigmoid"]]
    assert_same(model_of(body))


def test_float_weights_of_a_quantizer_become_integers_half_to_even():
    body = """g (float[1,4] x) => (float[1,4] y)
        <float[4] w = {0.25, 0.75, -0.25, 9.0}, float s = {0.5}, int8 z = {0}, int8 lo = {-1}, int8 hi = {1}>
        { q = QuantizeLinear(w, s, z) c = Clip(q, lo, hi) d = DequantizeLinear(c, s, z) y = Mul(x, d) }"""
    normal = assert_same(model_of(body))
    assert ops(normal) == ["DequantizeLinear", "Mul"]
    assert constants(normal)["c"].tolist() == [0, 1, 0, 1]
    assert constants(normal)["c"].dtype == np.int8


def test_nothing_behind_a_constant_dequantizer_is_evaluated():
    body = """g (float[1,2] x) => (float[1,3] y) <int8[3,2] w = {1,2,3,4,5,6}, float s = {0.5}>
        { d = DequantizeLinear(w, s) t = Transpose(d) y = MatMul(x, t) }"""
    assert ops(assert_same(model_of(body))) == ["DequantizeLinear", "Transpose", "MatMul"]


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT2", "UINT2"])
def test_constants_below_a_byte_are_evaluated(kind):
    elem_type = getattr(TensorProto, kind)
    low = 0 if kind[0] == "U" else -1
    scale = numpy_helper.from_array(np.array(1, np.float32), "s")
    weight = numpy_helper.from_array(np.array([low, 0, 1, 1.4], np.float32), "w")
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"], "d"),
        helper.make_node("Mul", ["x", "d"], ["y"], "m"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [scale, weight, helper.make_tensor("z", elem_type, [], [0])])
    normal = assert_same(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13))
    (codes,) = (t for t in normal.graph.initializer if t.name == "q")
    assert codes.data_type == elem_type
    assert numpy_helper.to_array(codes).astype(int).tolist() == [low, 0, 1, 1]


def test_random_numbers_are_no_constants():
    body = "g (float[1,4] x) => (float[1,4] y) { r = RandomNormal <shape = [1,4]> () y = Add(x, r) }"
    assert ops(normalize(model_of(body))) == ["RandomNormal", "Add"]


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_an_integer_division_by_zero_is_refused(op):
    body = f"""g (float[1,4] x) => (float[1,4] y) <int64[2] a = {{1,2}}, int64[2] b = {{1,0}}>
        {{ t = {op}(a, b) y = Reshape(x, t) }}"""
    with pytest.raises(ModelError, match="divides an integer by zero"):
        normalize(model_of(body))


def test_constants_that_would_fill_the_memory_are_refused():
    body = """g (float[1,4] x) => (float[1,4] y) <int64[2] s = {20000, 20000}, int64[1] a = {0}>
        { c = ConstantOfShape(s) r = ReduceMax(c) y = Add(x, r) }"""
    with pytest.raises(ModelError, match="400000000 elements"):
        normalize(model_of(body))


def test_constants_that_would_take_hours_are_refused():
    body = """g (float[1,4] x) => (float[1,4] y) <int64[2] s = {5000, 5000}>
        { c = ConstantOfShape(s) p = MatMul(c, c) r = ReduceMax(p) y = Add(x, r) }"""
    with pytest.raises(ModelError, match="too much work"):
        normalize(model_of(body))


def test_constants_that_cannot_be_evaluated_are_one_problem():
    body = """g (float[1,4] x) => (float[1,4] y) <float[4] w = {1,2,3,4}>
        { a = Sqrt(w) b = Exp(a) c = Add(x, b) y = Mul(c, a) }"""

    def evaluate(model: ModelProto, values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        raise ModelError(Problem("reference-refused", "it does not run"))

    with pytest.raises(ModelError) as caught:
        normalize(model_of(body), evaluate)
    assert [p.code for p in caught.value.problems] == ["reference-refused"]


# shapes


def test_every_value_has_a_static_type():
    body = """g (float[1,3,8,8] x) => (float[1,48] y)
        { a = Relu(x) b = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a) y = Flatten(b) }"""
    info = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in normalize(model_of(body)).graph.value_info
    }
    assert info == {"a": [1, 3, 8, 8], "b": [1, 3, 4, 4]}


def test_all_nodes_that_do_not_fit_are_listed():
    body = """g (float[1,4] x) => (float[1,4] y, float[1,4] z) <float[3] w = {1,2,3}, float[5] v = {1,2,3,4,5}>
        { [one] a = Add(x, w) y = Relu(a) [two] z = Mul(x, v) }"""
    with pytest.raises(ModelError) as caught:
        normalize(model_of(body))
    assert [p.where for p in caught.value.problems] == [("one",), ("two",)]


@pytest.mark.parametrize(
    "node",
    [
        "y = Reshape(x, s)",
        "y = Conv(x, k)",
        "y = Conv <group = 2> (x, k)",
        "y = BatchNormalization(x, v, v, v, v)",
        "q = QuantizeLinear(x, v) y = DequantizeLinear(q, v)",
        "q = QuantizeLinear <axis = 7> (x, v) y = DequantizeLinear(q, v)",
        "y = MatMul(x, v)",
        "y = Concat <axis = 1> (x, v)",
        "y = LogSoftmax <axis = 9> (x)",
    ],
)
def test_inputs_that_do_not_fit_are_refused(node):
    body = f"""g (float[1,4,3,3] x) => (float[n,m,o,p] y)
        <int64[2] s = {{1, 35}}, float[1,3,1,1] k = {{1, 2, 3}}, float[3] v = {{1, 2, 3}}> {{ {node} }}"""
    if "MatMul" in node:
        body = body.replace("[1,4,3,3]", "[1,4,3,4]").replace("[n,m,o,p]", "[n,m,o]")
    with pytest.raises(ModelError) as caught:
        normalize(model_of(body, 12 if "Softmax" in node else 18))
    assert [p.code for p in caught.value.problems] == ["invalid-shape"]


def test_a_shape_that_depends_on_the_data_is_refused():
    with pytest.raises(ModelError, match="depends on the data"):
        normalize(model_of("g (float[1,4] x) => (int64[2,n] y) { y = NonZero(x) }"))


def test_microsoft_operators_become_standard_ones_with_their_shapes():
    body = """g (float[1,4] x) => (float[2,4] y) <float s = {0.5}, uint8 z = {3}, uint8[2,1] b = {5, 6}>
        { q = QuantizeLinear(x, s, z)
          r = com.microsoft.QLinearAdd(q, s, z, b, s, z, s, z)
          y = DequantizeLinear(r, s, z) }"""
    found = ops(assert_same(model_of(body)))
    assert found == ["QuantizeLinear", *["DequantizeLinear"] * 2, "Add", "QuantizeLinear", "DequantizeLinear"]


def test_microsoft_quantizers_become_standard_ones():
    body = """g (float[1,4] x) => (float[1,4] y) <float s = {0.5}, uint16 z = {3}>
        { q = com.microsoft.QuantizeLinear(x, s, z) y = com.microsoft.DequantizeLinear(q, s, z) }"""
    assert {node.domain for node in assert_same(model_of(body)).graph.node} == {""}


# older forms


OLD = [
    (7, "float[1,4] x", "float[1,4] y", "y = Clip <min = -1.0, max = 1.0> (x)"),
    (7, "float[1,4] x", "float[1,4] y", "y = Clip <max = 1.0> (x)"),
    (10, "float[1,4] x", "float[1,4] y", "y = Clip (x)"),
    (9, "float[2,6] x", "float[1,2] y", "y = Slice <starts = [0, 1], ends = [1, -3]> (x)"),
    (7, "float[2,6] x", "float[2,3] y", "y = Slice <axes = [1], starts = [-3], ends = [99]> (x)"),
    (10, "float[2,3] x", "float[3,5] y", "y = Pad <pads = [0, 1, 1, 1], value = 0.5> (x)"),
    (7, "float[2,3] x", "float[4,3] y", 'y = Pad <pads = [1, 0, 1, 0], mode = "reflect"> (x)'),
    (9, "float[1,3,1] x", "float[3] y", "y = Squeeze <axes = [0, 2]> (x)"),
    (9, "float[1,3,1] x", "float[3] y", "y = Squeeze (x)"),
    (11, "float[3] x", "float[1,3,1] y", "y = Unsqueeze <axes = [0, 2]> (x)"),
    (11, "float[2,3,4] x", "float[2,4] y", "y = ReduceSum <axes = [1], keepdims = 0> (x)"),
    (13, "float[2,3,4] x", "float[2,1,1] y", "y = ReduceMean <axes = [1, 2]> (x)"),
    (17, "float[2,3,4] x", "float[2,3,1] y", "y = ReduceMax <axes = [2]> (x)"),
    (11, "float[2,3,4] x", "float[2,3,4] y", "y = Softmax (x)"),
    (7, "float[2,3,4] x", "float[2,3,4] y", "y = Softmax <axis = 0> (x)"),
    (11, "float[2,3,4] x", "float[2,3,4] y", "y = LogSoftmax <axis = -2> (x)"),
    (12, "float[2,3,4] x", "float[2,3,4] y", "y = Softmax <axis = -1> (x)"),
    (13, "float[2,3,4] x", "float[2,3,4] y", "y = Softmax <axis = 1> (x)"),
    (13, "float[2,3,4] x", "float[2,3,4] y", "y = Softmax (x)"),
    (11, "float[2,6] x", "float[2,2] y, float[2,4] z", "y, z = Split <axis = 1, split = [2, 4]> (x)"),
    (11, "float[4,6] x", "float[2,6] y, float[2,6] z", "y, z = Split (x)"),
    (13, "float[4,6] x", "float[2,6] y, float[2,6] z", "y, z = Split (x)"),
    (9, "float[2,6] x", "float[2,2] y, int64[2,2] z", "y, z = TopK <k = 2> (x)"),
    (7, "float[1,2,2,3] x", "float[1,2,4,9] y", 'y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]> (x)'),
    (9, "float[1,2,2,3] x", "float[1,2,4,9] y", "y = Upsample (x, scales)"),
    (9, "float[1,2,2,3] x", "float[1,2,4,9] y", 'y = Upsample <mode = "nearest"> (x, scales)'),
    (10, "float[1,2,2,3] x", "float[1,2,4,9] y", "y = Resize (x, scales)"),
    (11, "float[1,2,2,3] x", "float[1,2,4,9] y", "y = Resize (x, roi, scales)"),
    (11, "float[1,2,2,3] x", "float[1,2,5,7] y", "y = Resize (x, roi, roi, sizes)"),
    (13, "float[1,2,2,3] x", "float[1,2,4,9] y", 'y = Resize <mode = "nearest"> (x, , scales)'),
    (7, "float[2,4] x", "float[2,4] y", "y = BatchNormalization (x, w, w, w, w)"),
    (7, "float[2,4] x", "float[2,4] y", "y = BatchNormalization <spatial = 0> (x, w, w, w, w)"),
    (8, "float[2,4,3,3] x", "float[2,4,3,3] y", "y = BatchNormalization <epsilon = 0.01> (x, w, w, w, w)"),
    (14, "float[2,4,3,3] x", "float[2,4,3,3] y", "y = BatchNormalization (x, w, w, w, w)"),
    (7, "float[2,4] x", "float[2,4] y", "y = Dropout <ratio = 0.5> (x)"),
    (10, "float[3,4] x", "float[3,4] y", "y = Scatter <axis = 0> (x, i, u)"),
    (10, "float[1,4] x", "float[1,4] y", "q = QuantizeLinear(x, half, zero) y = DequantizeLinear(q, half, zero)"),
    (7, "float[1,2,4,4] x", "float[1,8,2,2] y", "y = SpaceToDepth <blocksize = 2> (x)"),
    (7, "float[3,4] x", "float[4,3] y", "y = Transpose (x)"),
]
CONSTANTS = """<float[4] scales = {1.0, 1.0, 2.0, 3.0}, float[0] roi = {}, int64[4] sizes = {1, 2, 5, 7},
    float[4] w = {1.0, 2.0, 3.0, 4.0}, int64[1,2] i = {2, 0}, float[1,2] u = {7.0, 8.0},
    float half = {0.5}, int8 zero = {3}>"""


@pytest.mark.parametrize("opset, inputs, outputs, node", OLD, ids=[f"{o}-{n[:40]}" for o, _, _, n in OLD])
def test_older_forms_compute_the_same(opset, inputs, outputs, node):
    normal = assert_same(model_of(f"g ({inputs}) => ({outputs}) {CONSTANTS} {{ {node} }}", opset))
    assert normal.opset_import[0].version == 25
    assert normal.ir_version == 13


def test_old_softmax_is_not_read_as_the_new_one_wrong():
    model = model_of("g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax <axis = 1> (x) }", 11)
    wrong = ModelProto()
    wrong.CopyFrom(model)
    wrong.opset_import[0].version = 13
    x = feeds(model)
    assert bits(reference.run(wrong, x)) != bits(reference.run(normalize(model), x))


@pytest.mark.parametrize(
    "node", ["y = Resize (x, scales)", "y = BatchNormalization <spatial = 0> (x, w, w, w, w)"], ids=["Resize", "Batch"]
)
def test_forms_without_an_exact_equivalent_are_refused(node):
    opset = 10 if "Resize" in node else 7
    text = f"""g (float[1,2,4,4] x) => (float[1,2,2,2] y)
        <float[4] scales = {{1.0,1.0,0.5,0.5}}, float[2] w = {{1.0,2.0}}> {{ {node} }}"""
    with pytest.raises(ModelError) as caught:
        normalize(model_of(text, opset))
    assert caught.value.problems[0].code == "unsupported-op"


def test_an_operator_that_changed_its_meaning_is_refused():
    body = """g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[2] w = {1.0, 2.0}>
        { y = GroupNormalization <num_groups = 2> (x, w, w) }"""
    with pytest.raises(ModelError, match="no form in operator set 25"):
        normalize(model_of(body, 18))


# windows


@st.composite
def windows(draw: st.DrawFn) -> dict[str, object]:
    kernel = draw(st.lists(st.integers(1, 4), min_size=2, max_size=2))
    strides = [draw(st.integers(1, size)) for size in kernel]  # onnxruntime refuses gaps between padded windows
    mode = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"]))
    return {"kernel_shape": kernel, "strides": strides, "auto_pad": mode}


@given(
    windows(),
    st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
    st.sampled_from([7, 10, 11, 18, 19, 22]),
    st.integers(0, 9),
)
def test_padding_by_name_becomes_padding_by_number(window, op_type, opset, seed):
    rng = np.random.default_rng(seed)
    kernel = window["kernel_shape"]
    weight = numpy_helper.from_array(rng.normal(size=(3, 2, *kernel)).astype(np.float32), "w")
    inputs = ["x", "w"] if op_type == "Conv" else ["x"]
    given = {k: v for k, v in window.items() if op_type != "Conv" or k != "kernel_shape"}
    node = helper.make_node(op_type, inputs, ["y"], "window", **given)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 7, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    normal = assert_same(model, seed, integers=op_type == "AveragePool")
    if len(normal.graph.node) == 1:  # averages over cut windows are taken apart
        assert attribute(normal, "kernel_shape") == kernel
        assert len(attribute(normal, "pads")) == 4
    assert not any(a.name == "auto_pad" for a in normal.graph.node[0].attribute)


@given(
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(0, 1), min_size=4, max_size=4),
)
def test_average_pools_of_old_files_compute_the_same(ceil_mode, include, kernel, stride, pads):
    pads = [min(p, kernel - 1) for p in pads]
    node = helper.make_node(
        "AveragePool", ["x"], ["y"], "pool", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads,
        ceil_mode=ceil_mode, count_include_pad=include,
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 7, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    # onnxruntime's kernel for versions before 19 adds in another order; sums of integers do not depend on it
    assert_same(model, integers=True)


def test_indices_of_a_maximum_that_nobody_reads_are_dropped():
    body = "g (float[1,1,4,4] x) => (float[1,1,2,2] y) { y, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) }"
    assert list(assert_same(model_of(body)).graph.node[0].output) == ["y"]
