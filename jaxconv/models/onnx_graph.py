"""From a function of JAX to an ONNX graph, one traced operation after the other. It needs the package onnx.

ONNX keeps the channels first and JAX's nets here keep them last, so transpositions surround a convolution or a pooling.
Runtimes remove most of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax import export, lax
from jax.extend.core import ClosedJaxpr, Literal
from onnx import helper, numpy_helper

_OPSET, _IR_VERSION = 18, 8
"""Of ONNX 1.13, January 2023: onnxruntime 1.14 and later can read it."""

_SAME = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "gt": "Greater",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
}
"""Operations of JAX that are an operator of ONNX, without attributes."""


def convert(function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: str) -> bytes:
    """Convert a function to an ONNX model with the input "examples" and the output "logits".

    Args:
        function: from dtype (batch, *shape) to float32 (batch, num_classes). It may be called for any batch, and treats
            each example alone.
        shape: the shape of one example.
        dtype: the dtype of the examples, such as "uint8".

    Raises:
        NotImplementedError: an operation of the function has no translation here.
    """
    (batch,) = export.symbolic_shape("batch")
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, *shape), dtype))
    graph = _Graph()
    (logits,) = _translate(graph, traced, ["examples"])
    graph.nodes.append(helper.make_node("Identity", [graph.name(logits)], ["logits"]))

    def described(name: str, aval: Any) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, _tensor_type(aval.dtype), ["batch", *aval.shape[1:]])

    (examples,), (output,) = traced.in_avals, traced.out_avals
    whole = helper.make_graph(
        graph.nodes, "jaxconv", [described("examples", examples)], [described("logits", output)], graph.initializers
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(whole, opset_imports=[opset], ir_version=_IR_VERSION).SerializeToString()


_Value = str | np.ndarray
"""The name of a tensor in the graph, or a constant."""


class _Graph:
    """Collects the nodes and the constants of an ONNX graph."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def name(self, value: _Value) -> str:
        """Return the name of a tensor. A constant becomes one."""
        if isinstance(value, str):
            return value
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def add(self, operator: str, *inputs: _Value, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.name(value) for value in inputs], [output], **attributes))
        return output

    def transpose(self, x: _Value, order: Sequence[int]) -> _Value:
        if isinstance(x, np.ndarray):
            return x.transpose(order)
        return self.add("Transpose", x, perm=list(order))


def _translate(graph: _Graph, traced: ClosedJaxpr, inputs: Sequence[_Value]) -> list[_Value]:
    """Add the operations of a traced function to a graph, and return its outputs."""
    jaxpr = traced.jaxpr
    values: dict[Any, _Value] = dict(zip(jaxpr.constvars, map(np.asarray, traced.consts), strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def read(variable: Any) -> _Value:
        if isinstance(variable, Literal):
            aval: Any = variable.aval
            return np.asarray(variable.val, aval.dtype)
        return values[variable]

    for equation in jaxpr.eqns:
        operands = [read(variable) for variable in equation.invars]
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if inner is not None:  # a function within, such as jax.nn.relu
            outputs = _translate(graph, inner, operands)
        elif any(isinstance(operand, str) for operand in operands):
            outputs = [_operation(graph, equation.primitive.name, operands, equation.params)]
        else:
            outputs = [_fold(equation, operands)]
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _fold(equation: Any, operands: list[Any]) -> np.ndarray:
    """Compute an operation on constants."""
    params = equation.params
    if equation.primitive.name == "broadcast_in_dim":  # ONNX broadcasts by itself along a batch of unknown size
        sizes = [size if isinstance(size, int) else 1 for size in params["shape"]]
        return np.asarray(lax.broadcast_in_dim(operands[0], sizes, params["broadcast_dimensions"]))
    return np.asarray(equation.primitive.bind(*operands, **params))


def _operation(graph: _Graph, name: str, operands: list[Any], params: dict[str, Any]) -> _Value:
    """Add one operation of JAX on tensors of the graph."""
    if name in _SAME:
        return graph.add(_SAME[name], *operands)
    x, *others = operands
    match name:
        case "convert_element_type":
            return graph.add("Cast", x, to=_tensor_type(params["new_dtype"]))
        case "integer_pow":
            return graph.add("Pow", x, np.array(params["y"], np.float32))
        case "expm1":
            return graph.add("Sub", graph.add("Exp", x), np.array(1, np.float32))
        case "select_n" if len(others) == 2:
            otherwise, where_true = others
            return graph.add("Where", x, where_true, otherwise)
        case "reshape" if params["dimensions"] is None:
            sizes = [size if isinstance(size, int) else -1 for size in params["new_sizes"]]
            return graph.add("Reshape", x, np.array(sizes, np.int64))
        case "dot_general" if params["dimension_numbers"] == (((1,), (0,)), ((), ())):
            return graph.add("MatMul", x, *others)
        case "reduce_max" | "reduce_sum":
            operator = {"reduce_max": "ReduceMax", "reduce_sum": "ReduceSum"}[name]
            return graph.add(operator, x, np.array(params["axes"], np.int64), keepdims=0)
        case "reduce_window_max" | "reduce_window_sum":
            return _pool(graph, name, x, params)
        case "conv_general_dilated" if params["batch_group_count"] == 1 and set(params["lhs_dilation"]) == {1}:
            return _convolve(graph, x, others[0], params)
    raise NotImplementedError(name)


def _convolve(graph: _Graph, x: _Value, kernel: _Value, params: dict[str, Any]) -> _Value:
    layout = params["dimension_numbers"]
    y = graph.add(
        "Conv",
        graph.transpose(x, layout.lhs_spec),
        graph.transpose(kernel, layout.rhs_spec),
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
        pads=_pads(params["padding"]),
    )
    return graph.transpose(y, np.argsort(layout.out_spec).tolist())


def _pool(graph: _Graph, name: str, x: _Value, params: dict[str, Any]) -> _Value:
    """Add a pooling over the dimensions between the batch and the channels."""
    window, strides = params["window_dimensions"], params["window_strides"]
    dilations = {*params["base_dilation"], *params["window_dilation"]}
    if {window[0], window[-1], strides[0], strides[-1]} | dilations != {1}:
        raise NotImplementedError(name)
    pooling = {"kernel_shape": window[1:-1], "strides": strides[1:-1], "pads": _pads(params["padding"][1:-1])}
    last = len(window) - 1
    x = graph.transpose(x, [0, last, *range(1, last)])
    if name == "reduce_window_max":
        y = graph.add("MaxPool", x, **pooling)
    else:
        mean = graph.add("AveragePool", x, count_include_pad=1, **pooling)
        y = graph.add("Mul", mean, np.array(math.prod(window), np.float32))
    return graph.transpose(y, [0, *range(2, last + 1), 1])


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """Order padding as ONNX does: that before each dimension, then that after each."""
    return [low for low, _ in padding] + [high for _, high in padding]


def _tensor_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
