"""Writes graphs of ONNX node by node, with the helpers of the package `onnx`.

Nodes and weights are named by strings; a function that adds a node returns the name of its result.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from toco_jax.export.files import ExportError

# Versions that ONNX Runtime reads from 1.14 on: `Resize` with `axes` needs this opset.
OPSET, IR_VERSION = 18, 8
# A file of protocol buffers may not exceed 2 GiB; the nodes need a little of that.
_MOST_BYTES = 2**31 - 2**24


def onnx_package(name: str = "onnx") -> Any:
    """Imports a package of the extra `onnx`.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"ONNX needs the package {name}, which is not installed: pip install 'toco_jax[onnx]'"
        ) from error


class Graph:
    """A graph that is being written.

    Args:
        half: whether weights are stored as float16; they are computed with as float32.
    """

    def __init__(self, *, half: bool = False):
        self._onnx = onnx_package()
        self._half = half
        self._nodes: list[Any] = []
        self._tensors: dict[str, Any] = {}
        self._weights: dict[str, str] = {}
        self._constants: dict[tuple, str] = {}
        self._bytes = 0

    def constant(self, values: Any, dtype: type = np.int64) -> str:
        """Adds a constant array, of whole numbers by default."""
        array: np.ndarray = np.asarray(values, dtype)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._store(f"constant_{len(self._constants)}", array)
        return self._constants[key]

    def weight(self, name: str, make: Callable[[], np.ndarray]) -> str:
        """Adds a weight; one of this name that is there already is shared.

        Args:
            name: its name in the file.
            make: returns its values, as float32.

        Raises:
            ExportError: the weights exceed what a file may hold, or the range of float16.
        """
        if name in self._weights:
            return self._weights[name]
        values = np.ascontiguousarray(make(), np.float32)
        if not self._half:
            self._weights[name] = self._store(name, values)
            return self._weights[name]
        with np.errstate(over="ignore"):
            stored = values.astype(np.float16)
        if not np.isfinite(stored).all():
            raise ExportError(
                f"{name} has values up to {np.abs(values).max():g}, which float16 cannot hold: use "
                "--weights=float32"
            )
        half = self._store(name, stored)
        self._weights[name] = self.add("Cast", half, to=self._onnx.TensorProto.FLOAT)
        return self._weights[name]

    def _store(self, name: str, array: np.ndarray) -> str:
        self._bytes += array.nbytes
        if self._bytes > _MOST_BYTES:
            smaller = "--format=stablehlo" if self._half else "--weights=float16"
            raise ExportError(
                f"the weights exceed the 2 GiB that an ONNX file may hold: use {smaller}"
            )
        self._tensors[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one result."""
        (result,) = self.add_many(kind, *inputs, count=1, **attributes)
        return result

    def add_many(self, kind: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Adds a node with several results."""
        name = f"{kind}_{len(self._nodes)}"
        results = [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        node = self._onnx.helper.make_node(kind, inputs, results, name=name, **attributes)
        self._nodes.append(node)
        return results

    def cast(self, x: str, dtype: type) -> str:
        """Converts an array to a dtype of numpy's."""
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", x, to=kind)

    def serialized(
        self,
        inputs: Mapping[str, tuple[type, Sequence[int | str]]],
        outputs: Mapping[str, tuple[str, type, Sequence[int | str]]],
        metadata: Mapping[str, str],
    ) -> bytes:
        """Returns the file's content, which `onnx.checker` has passed.

        Args:
            inputs: dtype and shape of each input; a name in a shape stands for any number.
            outputs: the name of each output's array, its dtype and its shape.
            metadata: what the file says of itself.
        """
        helper = self._onnx.helper

        def described(name: str, dtype: type, shape: Sequence[int | str]) -> Any:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return helper.make_tensor_value_info(name, kind, shape)

        ends = [
            helper.make_node("Identity", [array], [name], name=name)
            for name, (array, _, _) in outputs.items()
        ]
        nodes, used = _needed([*self._nodes, *ends], set(outputs))
        graph = helper.make_graph(
            nodes,
            "toco",
            [described(name, *about) for name, about in inputs.items()],
            [described(name, *about[1:]) for name, about in outputs.items()],
            [tensor for name, tensor in self._tensors.items() if name in used],
        )
        model = helper.make_model(
            graph,
            producer_name="toco_jax",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        helper.set_model_props(model, dict(metadata))
        self._onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def _needed(nodes: Sequence[Any], wanted: set[str]) -> tuple[list[Any], set[str]]:
    """Returns the nodes on which the wanted arrays depend, and the names of all their arrays."""
    kept, used = [], set(wanted)
    for node in reversed(nodes):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    return kept[::-1], used
