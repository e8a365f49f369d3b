"""`load` reads what other tools wrote, and refuses everything else with all reasons."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from tcompile.errors import ModelError, UsageError, UserError
from tcompile.frontend import Loaded, load

HEADER = '<ir_version: 10, opset_import: ["": 18]>'
RELU = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"


def model_of(body: str, header: str = HEADER) -> ModelProto:
    return parser.parse_model(header + body)


@pytest.fixture(name="read")
def _read(tmp_path: Path) -> Callable[..., Loaded]:
    def read(model: ModelProto | str | bytes, **shapes: tuple[int, ...]) -> Loaded:
        path = tmp_path / "model.onnx"
        if isinstance(model, str):
            model = model_of(model)
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return load(path, shapes)

    return read


@pytest.fixture(name="problems")
def _problems(read: Callable[..., Loaded]) -> Callable[..., dict[str, str]]:
    def problems(model: ModelProto | str | bytes, **shapes: tuple[int, ...]) -> dict[str, str]:
        with pytest.raises(UserError) as caught:
            read(model, **shapes)
        assert caught.value.exit_code == 2
        return {p.code: f"{p.message} | {p.hint}" for p in caught.value.problems}

    return problems


def input_shape(model: ModelProto) -> list[int]:
    return [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]


# files


def test_a_sound_file_is_read(read):
    loaded = read(RELU)
    assert (loaded.file, loaded.format, loaded.notes) == ("model.onnx", "float", ())
    assert [n.op_type for n in loaded.model.graph.node] == ["Relu"]


def test_the_same_file_gives_the_same_bytes(read):
    one, two = read(RELU), read(RELU)
    assert one.model.SerializeToString(deterministic=True) == two.model.SerializeToString(deterministic=True)
    assert one.sha256 == two.sha256


@pytest.mark.parametrize("data", [b"", b"hello, this is no network", b"\x00" * 100, b"version https://git-lfs 1"])
def test_other_files_are_no_onnx(problems, data):
    assert "is not an ONNX file" in problems(data)["not-onnx"]


def test_a_git_lfs_pointer_is_named(problems):
    assert "git lfs pull" in problems(b"version https://git-lfs.github.com/spec/v1\n")["not-onnx"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(problems, share):
    text = "g (float[1,4] x) => (float[1,4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }"
    data = model_of(text).SerializeToString()
    assert problems(data[: int(share * len(data))])


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "nothing.onnx")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        load(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a file"):
        load(tmp_path / "pipe")


def test_a_file_over_two_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(UsageError, match="under 2 GiB"):
        load(tmp_path / "large.onnx")


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_refused_and_never_a_crash(tmp_path_factory, changes):
    text = """g (float[1,4] x) => (float[1,4] y) <float[4] w = {1, 2, 3, 4}, float s = {0.5}, int8 z = {3}>
        { a = Add(x, w) q = QuantizeLinear(a, s, z) b = DequantizeLinear(q, s, z) y = Softmax <axis = 1> (b) }"""
    data = bytearray(model_of(text).SerializeToString())
    for position, value in changes:
        data[position % len(data)] = value
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        assert load(path).reference.graph.node


def test_names_that_are_no_text_are_refused(problems):
    data = model_of("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }").SerializeToString()
    assert "not UTF-8" in problems(data.replace(b"Relu", b"R\xfflu"))["invalid-onnx"]


# versions


def test_a_model_without_opset_is_refused(problems):
    model = model_of(RELU)
    del model.opset_import[:]
    assert "no opset_import" in problems(model)["missing-opset"]


@pytest.mark.parametrize("opset", [1, 6, 27, 1000])
def test_opsets_outside_the_range_are_refused(problems, opset):
    assert (
        f"7 to 26, not {opset}"
        in problems(model_of(RELU, f'<ir_version: 10, opset_import: ["": {opset}]>'))["unsupported-opset"]
    )


@pytest.mark.parametrize("opset", range(7, 27))
def test_opsets_inside_the_range_are_read(read, opset):
    loaded = read(model_of(RELU, f'<ir_version: 10, opset_import: ["": {opset}]>'))
    assert loaded.reference.opset_import[0].version == opset
    assert loaded.model.opset_import[0].version == 25


@pytest.mark.parametrize("version", [2, 99])
def test_unknown_ir_versions_are_refused(problems, version):
    assert "unsupported-ir" in problems(model_of(RELU, f'<ir_version: {version}, opset_import: ["": 18]>'))


def test_a_domain_that_no_node_uses_is_dropped(read):
    loaded = read(model_of(RELU, '<ir_version: 10, opset_import: ["": 18, "my.own": 1]>'))
    assert [entry.domain for entry in loaded.reference.opset_import] == [""]


def test_the_long_name_of_the_default_domain_is_the_default_domain(read):
    model = model_of(RELU)
    model.graph.node[0].domain = "ai.onnx"
    assert read(model).reference.graph.node[0].domain == ""


# operators


def test_all_unsupported_operators_are_listed_at_once(tmp_path):
    body = """g (float[1,4] x) => (float[1,4] y)
        { [one] a = my.own.Foo(x) [two] b = my.own.Foo(a) c = Bar(b) [four] y = onnx.brevitas.FloatQuant(c) }"""
    (tmp_path / "m.onnx").write_bytes(model_of(body).SerializeToString())
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "m.onnx")
    assert [p.where for p in caught.value.problems] == [("one", "two"), ("Bar_2",), ("four",)]
    assert all(p.code == "unsupported-op" for p in caught.value.problems)


def test_subgraphs_are_refused(problems):
    body = """g (bool c, float[1,4] x) => (float[1,4] y) { y = If (c)
        <then_branch = t () => (float[1,4] a) { a = Relu(x) }, else_branch = e () => (float[1,4] b) { b = Neg(x) }> }"""
    assert "'If'" in problems(body)["unsupported-op"]


def test_functions_are_inlined(read):
    text = """<ir_version: 10, opset_import: ["": 18, "f": 1]> g (float[1,4] x) => (float[1,4] y) { y = f.twice(x) }
        <domain: "f", opset_import: ["": 18]> twice (a) => (b) { c = Relu(a) b = Neg(c) }"""
    assert [n.op_type for n in read(parser.parse_model(text)).reference.graph.node] == ["Relu", "Neg"]


def test_functions_that_explode_are_refused_before_they_do(problems):
    levels = "\n".join(
        f'<domain: "f", opset_import: ["": 18, "f": 1]> f{i} (a) => (b) {{ c = f.f{i + 1}(a) b = f.f{i + 1}(c) }}'
        for i in range(40)
    )
    text = f"""<ir_version: 10, opset_import: ["": 18, "f": 1]> g (float[1,4] x) => (float[1,4] y) {{ y = f.f0(x) }}
        {levels} <domain: "f", opset_import: ["": 18]> f40 (a) => (b) {{ b = Relu(a) }}"""
    assert "too-large" in problems(parser.parse_model(text))


def test_functions_that_call_themselves_are_refused(problems):
    text = """<ir_version: 10, opset_import: ["": 18, "f": 1]> g (float[1,4] x) => (float[1,4] y) { y = f.again(x) }
        <domain: "f", opset_import: ["": 18, "f": 1]> again (a) => (b) { b = f.again(a) }"""
    assert "calls itself" in problems(parser.parse_model(text))["unsupported-function"]


def test_invalid_attributes_are_refused(problems):
    assert "invalid-onnx" in problems("g (float[1,4] x) => (float[1,4] y) { y = Relu <nonsense = 1> (x) }")


# the graph


def test_an_empty_graph_is_refused(problems):
    assert "no nodes" in problems("g (float[1,4] x) => (float[1,4] x) { }")["empty-graph"]


def test_a_cycle_is_refused_with_its_nodes(problems):
    body = "g (float[1,4] x) => (float[1,4] y) { [p] a = Add(x, c) [q] b = Relu(a) [r] c = Neg(b) y = Relu(c) }"
    assert "'p', 'q', 'r'" in problems(body)["cycle"]


def test_nodes_out_of_order_are_sorted(read):
    loaded = read("g (float[1,4] x) => (float[1,4] y) { [second] y = Neg(a) [first] a = Relu(x) }")
    assert [n.name for n in loaded.reference.graph.node] == ["first", "second"]


def test_a_tensor_defined_twice_is_refused(problems):
    body = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) y = Neg(x) }"
    assert "'y' is defined more than once" in problems(body)["duplicate-name"]


def test_undefined_inputs_and_outputs_are_refused(problems):
    assert (
        "'nowhere' of 'Relu'"
        in problems("g (float[1,4] x) => (float[1,4] y) { y = Relu(nowhere) }")["undefined-tensor"]
    )
    assert "'z' is not computed" in problems("g (float[1,4] x) => (float[1,4] z) { y = Relu(x) }")["undefined-tensor"]


def test_node_names_become_unique(read):
    model = model_of(
        "g (float[1,4] x) => (float[1,4] y) { a = Relu(x) [n] b = Neg(a) [n] c = Abs(b) [Exp_3] y = Exp(c) }"
    )
    assert [n.name for n in read(model).reference.graph.node] == ["Relu_0", "n", "n_1", "Exp_3"]


def test_an_initializer_among_the_inputs_is_no_input(read):
    model = model_of("g (float[1,4] x) => (float[1,4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }")
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    assert [v.name for v in read(model).reference.graph.input] == ["x"]


@pytest.mark.parametrize(
    "name", ['a"b', "a\nb", "../../etc/passwd", "module", "n" * 10_000, "\x1b[31m", "--", "{0}", "%s"]
)
def test_any_name_is_read_and_kept(read, name):
    model = model_of(RELU)
    model.graph.node[0].name = name
    model.graph.node[0].output[0] = model.graph.output[0].name = name
    loaded = read(model)
    assert (loaded.model.graph.node[0].name, loaded.model.graph.output[0].name) == (name, name)


def test_a_hostile_name_is_shown_harmless(problems):
    model = model_of("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) y = Neg(x) }")
    for node in model.graph.node:
        node.output[0] = "\x1b[31m\n" + "n" * 10_000
    text = problems(model)["duplicate-name"]
    assert text.isprintable()
    assert len(text) < 300


# tensors


def with_weight(tensor: TensorProto) -> ModelProto:
    tensor.name = "w"
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], "sum")]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy")
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [tensor]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_with_tensor_and_node(problems, value):
    model = with_weight(numpy_helper.from_array(np.array([1, value, 2, 3], np.float32)))
    text = problems(model)["not-finite"]
    assert "'w'" in text
    assert "1 of 4" in text
    assert "'Add' (node 'sum')" in text


def test_clip_may_have_infinite_bounds(read):
    bound = numpy_helper.from_array(np.array(np.inf, np.float32), "top")
    model = model_of("g (float[1,4] x) => (float[1,4] y) { y = Clip(x, , top) }")
    model.graph.initializer.append(bound)
    assert read(model).model.graph.node[0].op_type == "Clip"


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_raw_data_must_fit_the_shape(problems, size):
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], raw_data=bytes(size))
    assert f"16 bytes for its shape, not {size}" in problems(with_weight(tensor))["invalid-onnx"]


@pytest.mark.parametrize("count", [0, 3, 5])
def test_typed_data_must_fit_the_shape(problems, count):
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], float_data=[1.0] * count)
    assert f"4 values for its shape, not {count}" in problems(with_weight(tensor))["invalid-onnx"]


def test_a_shape_of_a_million_millions_is_refused_before_allocation(problems):
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[10**6, 10**6], raw_data=b"1234")
    assert "2^31 elements, not 1000000000000" in problems(with_weight(tensor))["too-large"]


@pytest.mark.parametrize(
    "node",
    [
        "big = ConstantOfShape(s)",
        "big = Expand(x, e)",
        "one = Relu(x) big = Tile(one, s)",
        "big = Tile(c, s)",
        "big = Expand(c, e)",
    ],
)
def test_a_small_file_cannot_ask_for_a_million_millions(problems, node):
    body = f"""g (float[1,4] x) => (float[n,m] y)
        <int64[2] s = {{1000000, 4000000}}, int64[3] e = {{1000000, 1000000, 4}}, float[1,4] c = {{1, 2, 3, 4}}>
        {{ {node} y = Neg(big) }}"""
    assert {"too-large", "unsupported-op"} & set(problems(body))


def test_negative_dimensions_are_refused(problems):
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[-4], raw_data=b"")
    assert "negative" in problems(with_weight(tensor))["invalid-onnx"]


def test_strings_and_unknown_types_are_refused(problems):
    assert (
        "strings"
        in problems(with_weight(TensorProto(data_type=TensorProto.STRING, dims=[1], string_data=[b"s"])))[
            "unsupported-type"
        ]
    )
    assert "unsupported-type" in problems(with_weight(TensorProto(data_type=77, dims=[4], raw_data=bytes(16))))


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_precisions_are_computed_in_float32(read, kind):
    model = with_weight(numpy_helper.from_array(np.array([1, 2, 3, 0.1], kind)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    found = read(model)
    values = [*found.model.graph.input, *found.model.graph.output, *found.model.graph.value_info]
    assert {v.type.tensor_type.elem_type for v in values} == {TensorProto.FLOAT}
    weight = numpy_helper.to_array(found.model.graph.initializer[0])
    assert weight.dtype == np.float32 and weight.tolist() == [1, 2, 3, float(np.float32(kind(0.1)))]
    assert any("computed in float32" in note for note in found.notes)


def test_half_precision_weights_behind_a_cast_are_read(read):
    model = with_weight(numpy_helper.from_array(np.array([1, 2, 3, 4], np.float16)))
    model.graph.node.insert(0, helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT))
    model.graph.node[1].input[1] = "wide"
    weight = numpy_helper.to_array(read(model).model.graph.initializer[0])
    assert weight.dtype == np.float32
    assert weight.tolist() == [1, 2, 3, 4]


def test_problems_of_tensors_graph_and_shapes_come_together(problems):
    model = with_weight(numpy_helper.from_array(np.full(4, np.nan, np.float32)))
    model.graph.node.append(helper.make_node("Relu", ["nowhere"], ["z"]))
    model.graph.node.append(helper.make_node("Foo", ["x"], ["q"]))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    assert problems(model).keys() == {"not-finite", "undefined-tensor", "unsupported-op", "dynamic-shape"}


# external data


def external(location: str, *, offset: str | None = None, length: str | None = None) -> ModelProto:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    return with_weight(tensor)


def test_external_data_beside_the_model_is_read(read, tmp_path):
    (tmp_path / "w.bin").write_bytes(b"head" + np.arange(4, dtype=np.float32).tobytes())
    loaded = read(external("w.bin", offset="4", length="16"))
    assert numpy_helper.to_array(loaded.reference.graph.initializer[0]).tolist() == [0, 1, 2, 3]
    assert not loaded.reference.graph.initializer[0].external_data


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "/etc/passwd",
        "sub/../../w.bin",
        "link",
        "folder-link/w.bin",
        "",
        ".",
        "C:\\w.bin",
        "\\w.bin",
        "a\0b",
    ],
)
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (inside / "link").symlink_to(tmp_path / "w.bin")
    (inside / "folder-link").symlink_to(tmp_path)
    (inside / "m.onnx").write_bytes(external(location).SerializeToString())
    with pytest.raises(ModelError, match="not inside the model's folder"):
        load(inside / "m.onnx")


@pytest.mark.parametrize(
    "offset, length",
    [("4", None), ("1", "16"), ("-4", None), ("0", "15"), ("0", "1e1"), ("x", None), ("9" * 30, None)],
)
def test_external_ranges_must_fit(problems, tmp_path, offset, length):
    (tmp_path / "w.bin").write_bytes(bytes(16))
    assert "external-data" in problems(external("w.bin", offset=offset, length=length))


def test_missing_external_data_is_named(problems):
    assert "'w.bin': No such file" in problems(external("w.bin"))["external-data"]


def test_external_data_of_a_huge_shape_is_not_read(problems, tmp_path):
    model = external("w.bin")
    model.graph.initializer[0].dims[:] = [10**6, 10**6]
    assert "too-large" in problems(model)


# shapes


def test_a_dynamic_batch_becomes_one_frame(read):
    loaded = read("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    assert input_shape(loaded.reference) == input_shape(loaded.model) == [1, 4]
    assert [d.dim_value for d in loaded.reference.graph.output[0].type.tensor_type.shape.dim] == [1, 4]
    assert "dynamic batch is 1" in loaded.notes[0]


def test_other_dynamic_dimensions_are_refused_with_a_cure(problems, read):
    body = "g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }"
    text = problems(body)["dynamic-shape"]
    assert "axis 2 ('H'), 3 ('W')" in text
    assert "--shape x=1,3,32,32" in text
    assert input_shape(read(body, x=(1, 3, 32, 32)).model) == [1, 3, 32, 32]


def test_a_given_size_holds_for_all_dimensions_of_that_name(read):
    loaded = read("g (float[1,W] x, float[1,W] z) => (float[1,W] y) { y = Add(x, z) }", x=(1, 7))
    assert [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in loaded.model.graph.input] == [[1, 7], [1, 7]]


@pytest.mark.parametrize(
    "shapes, said",
    [
        ({"Input": (1, 4)}, "did you mean 'input'"),
        ({"input": (1, 4, 1)}, "must have 2 sizes, not 3"),
        ({"input": (1, 5)}, "agree with the file's ?,4, not 1,5"),
        ({"input": (0, 4)}, "positive sizes"),
        ({"input": (-1, 4)}, "positive sizes"),
    ],
)
def test_given_shapes_that_do_not_fit_are_refused(problems, shapes, said):
    assert said in str(problems("g (float[N,4] input) => (float[N,4] y) { y = Relu(input) }", **shapes))


def test_an_input_without_rank_needs_a_shape(problems, read):
    model = model_of(RELU)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert "no shape at all" in problems(model)["dynamic-shape"]
    assert input_shape(read(model, x=(1, 4)).model) == [1, 4]


def test_a_fixed_batch_becomes_one_frame(read):
    loaded = read("g (float[8,4] x) => (float[8,2] y) <float[4,2] w = {1,2,3,4,5,6,7,8}> { y = MatMul(x, w) }")
    assert input_shape(loaded.reference) == input_shape(loaded.model) == [1, 4]
    assert "fixed batch is 1" in loaded.notes[0]


@pytest.mark.parametrize(
    "body",
    [
        "g (float[8,4] x) => (float[1,32] y) <int64[2] s = {1, 32}> { y = Reshape(x, s) }",
        "g (float[8,4] x) => (float[n,m] y) <int64[2] s = {8, -1}> { y = Reshape(x, s) }",
        "g (float[8,4] x) => (float[4] y) <int64[1] a = {0}> { y = ReduceSum <keepdims = 0> (x, a) }",
    ],
)
def test_a_first_dimension_that_the_graph_needs_is_kept(read, body):
    loaded = read(body)
    assert input_shape(loaded.model) == [8, 4]
    assert "first dimension is kept" in loaded.notes[0]


# formats


Q = "q = QuantizeLinear(x, s, z) "
DQ = " y = DequantizeLinear(q, s, z)"
SCALES = "g (float[1,4] x) => (float[1,4] y) <float s = {0.5}, int8 z = {0}> "


@pytest.mark.parametrize(
    "body, kind",
    [
        (RELU, "float"),
        (SCALES + "{" + Q + DQ + "}", "qdq"),
        (SCALES + "{" + Q + "c = Clip(q, z) y = DequantizeLinear(c, s, z) }", "qcdq"),
        (
            SCALES + "{" + Q + "r = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z) y = DequantizeLinear(r, s, z) }",
            "qoperator",
        ),
    ],
)
def test_formats_are_recognised(read, body, kind):
    assert read(model_of(body, '<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>')).format == kind


def test_the_ancient_file_is_refused(shared_model):
    with pytest.raises(ModelError) as caught:
        load(shared_model("superres_onnx_tutorial.onnx"))
    assert [p.code for p in caught.value.problems] == ["missing-opset"]


def test_channels_last_networks_are_read(shared_model):
    found = load(shared_model("qonnx_tiny_unet.onnx"))
    assert found.format == "qonnx" and not {n.domain for n in found.model.graph.node} - {""}
