"""Reshapes with the sizes that are known, where exporters compute every size at run time.

A network over tokens asks its tensors for batch and length in every layer (`Shape`, `Gather`, `Concat`:
eight operators for each `Reshape`); they cost as much as its layer norms. ONNX writes "as the input has it"
as a 0 in a constant, which says the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plisse.export.session import optional, silence

Dims = list[int | str]


def with_plain_shapes(data: bytes) -> bytes:
    """A file in which sizes of `Reshape` are constants where symbolic sizes show them, in which one reshape
    does the work of several in a row, and no reshape or pair of transposes does nothing. Unchanged where no
    sizes can be found.

    data: a serialized ONNX model. Two sizes are taken for equal only where they are the same number, or
    the same expression of the sizes of the inputs.
    """
    onnx, tool = optional("onnx"), optional("onnxruntime.tools.symbolic_shape_infer")
    model = onnx.load_from_string(data)
    inference = tool.SymbolicShapeInference(2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0)
    try:
        with silence():  # step by step, since the function for all steps leaves files where sizes are missing
            inference._preprocess(model)
            while inference.run_:
                inference._infer_impl()
    except Exception:  # of no common base, for operators that it does not know
        return data
    _Plainer(model.graph, _sizes(inference.out_mp_.graph), onnx).run()
    return bytes(model.SerializeToString())


def plain_shape(have: Dims, want: Dims) -> list[int] | None:
    """The constant that takes a tensor of sizes `have` to sizes `want`: 0 where the size stays in its place,
    -1 for one that follows from the rest; None where two or more would have to follow.

    >>> plain_shape(["N", "T", 768], ["N", "T", 12, 64])
    [0, 0, 12, 64]
    >>> plain_shape(["N", "T", 12], ["N*T", 12])
    [-1, 12]
    >>> plain_shape(["N", "T"], ["T", "N"]) is None
    True
    """
    kept = [place < len(have) and have[place] == size for place, size in enumerate(want)]
    pairs = list(zip(kept, want, strict=True))
    shape = [0 if keep else size if isinstance(size, int) else -1 for keep, size in pairs]
    return None if shape.count(-1) > 1 or 0 in (*have, *want) else shape


class _Plainer:
    """One pass over a graph in its order. names: what each tensor is another name of."""

    def __init__(self, graph: Any, sizes: dict[str, Dims], onnx: Any) -> None:
        self.graph, self.sizes, self.onnx = graph, sizes, onnx
        self.maker = {name: node for node in graph.node for name in node.output}
        self.names: dict[str, str] = {}
        self.results = {value.name for value in graph.output}

    def run(self) -> None:
        for node in self.graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = self.names.get(name, name)
            if node.output[0] in self.results:
                continue
            if node.op_type == "Reshape" and not _attribute(node, "allowzero"):
                self.reshape(node)
            if node.op_type == "Transpose":
                self.transpose(node)
        self.sweep()

    def reshape(self, node: Any) -> None:
        source, name = node.input[0], node.output[0]
        while source in self.maker and self.maker[source].op_type == "Reshape":
            source = self.maker[source].input[0]
        have, want = self.sizes.get(source), self.sizes.get(name)
        shape = None if have is None or want is None else plain_shape(have, want)
        if shape is None:
            return
        node.input[0] = source
        if have == want:
            self.names[name] = source
            return
        node.input[1] = f"{name}_sizes"
        values = self.onnx.numpy_helper.from_array(np.array(shape, np.int64), node.input[1])
        self.graph.initializer.append(values)

    def transpose(self, node: Any) -> None:
        before = self.maker.get(node.input[0])
        if before is None or before.op_type != "Transpose":
            return
        first, second = _attribute(before, "perm"), _attribute(node, "perm")
        if first and second and [first[place] for place in second] == list(range(len(first))):
            self.names[node.output[0]] = before.input[0]

    def sweep(self) -> None:
        """Take away what nothing reads."""
        used = set(self.results)
        for place in reversed(range(len(self.graph.node))):
            node = self.graph.node[place]
            if used.isdisjoint(node.output):
                del self.graph.node[place]
                continue
            used.update(node.input)
            for held in node.attribute:  # what branches and loops read from outside
                used.update(name for part in held.g.node for name in part.input)
        for place in reversed(range(len(self.graph.initializer))):
            if self.graph.initializer[place].name not in used:
                del self.graph.initializer[place]


def _attribute(node: Any, name: str) -> Any:
    found = [held.i or list(held.ints) for held in node.attribute if held.name == name]
    return found[0] if found else None


def _sizes(graph: Any) -> dict[str, Dims]:
    """Sizes of every tensor of which all are known, as numbers or expressions."""
    found: dict[str, Dims] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            dims = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "") for d in kind.shape.dim]
            if "" not in dims:
                found[value.name] = dims
    return found
