"""A quantized network as one that computes in integers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from plisse.compress.notes import with_notes
from plisse.core import modules
from plisse.core.batch import Inputs, call, map_inputs
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.core.fakequant import InputQuantizer
from plisse.core.hooks import before_calls
from plisse.core.reparam import baked
from plisse.errors import GraphError, StaysFloat
from plisse.integer import kernels as fast
from plisse.integer import reference as exact
from plisse.integer.forms import Layer
from plisse.integer.functions import IntegerFunctions, WithFunctions
from plisse.integer.graph import traced
from plisse.integer.kernels import Packed
from plisse.integer.layers import OURS, Between, DynamicLinear, EmbeddingRows, Siblings
from plisse.integer.network import Backend, IntegerNetwork
from plisse.integer.operators import Entry, Symbols, Weighted, Window
from plisse.integer.pages import use_large_pages
from plisse.integer.plan import plan
from plisse.integer.weights import IntegerWeight, integer_weight


def to_integer(
    model: nn.Module,
    example: Inputs,
    *,
    calibration: Iterable[Inputs] = (),
    kernels: bool = True,
    strict: bool = False,
) -> nn.Module:
    """The network in integers: uint8 activations, int8 weights, int32 sums, on the CPU.

    model: with weights on symmetric 8-bit (or narrower) grids per tensor or channel, and `InputQuantizer`s:
    what `FoldBatchNorm` and `Quantize(bits=8, activations=Activations(8))` give, or a file of that. A linear
    layer without `InputQuantizer` rounds every token at run time. example: inputs to trace with.
    calibration: more inputs; ranges of sums that no quantizer covers (shortcuts, what is pooled) are the
    extremes seen on the example and these. kernels: oneDNN's integer kernels, or (False) the reference in
    plain integer arithmetic. strict: refuse a network of which any operator stays in floating point.

    Convolutional networks (over images or sequences) run in integers from the first rounding to the last
    accumulator. Networks that cannot be traced (transformers) get their layers replaced: linear layers and
    embeddings compute in integers and meet in floating point; in the reference also attention, softmax, GELU
    and layer norm. Layers that read one tensor share its rounding. With kernels, weights of 4 MiB and more
    are put in pages of 2 MiB where Linux has them.

    The result is for inference on the CPU. Warns (`StaysFloat`) and notes which operators stay in floating
    point. Raises GraphError for these under `strict`, and where no layer has an integer form; InputError for
    an example with NaN.
    """
    plain = modules.clone(baked(model)).cpu().eval()
    batches = [map_inputs(inputs, lambda tensor: tensor.cpu()) for inputs in (example, *calibration)]
    backend = fast.kernels if kernels else exact.reference
    layers, left = _converted(plain, model, backend)
    if not layers and not any(isinstance(module, OURS) for module in plain.modules()):
        raise GraphError(
            f"a {type(model).__name__} without a layer on an integer grid",
            expected="weights of at most 8 bits, symmetric, one scale per tensor or channel",
            hint="Quantize(bits=8, activations=Activations(8)) before",
        )
    network: nn.Module
    try:
        pieces = traced(plain, batches, set(layers))
    except GraphError:
        network, floating = _layerwise(plain, batches[0], layers, kernels)
        floating = left + floating
    else:
        reached = {piece.form.name for piece in pieces.pieces if isinstance(piece.form, Layer)}
        _replace(plain, {name: layer for name, layer in layers.items() if name not in reached}, backend)
        steps = plan(pieces, layers)
        network = IntegerNetwork(steps, pieces, backend)
        floating = list(steps.floating)
    packed = [getattr(module, "packed", None) for module in network.modules()]
    use_large_pages(piece.weight for piece in packed if isinstance(piece, Packed))
    return _said(network, floating, strict)


def _said(network: nn.Module, floating: list[str], strict: bool) -> nn.Module:
    """Say what stays in floating point, or refuse it."""
    names = list(dict.fromkeys(floating))
    if not names:
        return network
    listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    if strict:
        raise GraphError(
            f"operators with no integer form: {listed}",
            expected="a network that runs in integers throughout",
            hint="FoldBatchNorm() first, or strict=False, which leaves them in floating point",
        )
    warnings.warn(f"stays in floating point: {listed}", StaysFloat, stacklevel=3)
    return with_notes(network, [f"{name} stays in floating point" for name in names])


def _converted(plain: nn.Module, model: nn.Module, backend: Backend) -> tuple[dict[str, Weighted], list[str]]:
    """Put layers that round at run time, look up rows, or scale their input before into `plain`, in place.
    Returns the other layers with an integer form, and the names of those without."""
    layers: dict[str, Weighted] = {}
    left = []
    for part in plain.modules():
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0  # or it reads the weights of its layers past them
    for name, module in list(modules.weighted_layers(plain)):
        layer: Any = module
        weight = integer_weight(model, f"{name}.weight" if name else "weight") if _fits(layer) else None
        quantizer = getattr(layer, "input_quantizer", None)
        factor = getattr(getattr(layer, "input_scale", None), "factor", None)
        if weight is None:
            left.append(f"{type(layer).__name__} {name!r}")
        elif isinstance(layer, nn.Embedding):
            modules.replace(plain, name, EmbeddingRows(weight))
        elif isinstance(quantizer, InputQuantizer) and factor is None:
            layers[name] = _weighted(layer, weight, quantizer)
        elif isinstance(quantizer, InputQuantizer):
            weighted = _weighted(layer, weight, quantizer)
            between = Between(backend(Entry(weighted.source)), backend(weighted), factor)
            modules.replace(plain, name, between)
        else:
            made = DynamicLinear(weight, layer.bias, quantizer, factor, kernels=backend is fast.kernels)
            modules.replace(plain, name, made)
    return layers, left


def _replace(plain: nn.Module, layers: dict[str, Weighted], backend: Backend) -> None:
    """Put layers that the trace does not show, being inside of a module of torch, into their place."""
    for name, layer in layers.items():
        modules.replace(plain, name, Between(backend(Entry(layer.source)), backend(layer)))


def _fits(layer: Any) -> bool:
    """Whether a layer of this kind, with this quantizer, has an integer form."""
    if hasattr(layer, "input_rotation") or hasattr(layer, "output_rotation"):
        return False
    quantizer = getattr(layer, "input_quantizer", None)
    if type(layer) is nn.Embedding:
        return layer.max_norm is None
    if type(layer) in (nn.Conv1d, nn.Conv2d):
        plainly = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plainly and isinstance(quantizer, InputQuantizer) and not hasattr(layer, "input_scale")
    if isinstance(quantizer, DynamicQuantizer):
        return type(layer) is nn.Linear and quantizer.bits <= 8 and quantizer.unit != "sample"
    return type(layer) is nn.Linear and isinstance(quantizer, InputQuantizer | None)


def _weighted(layer: Any, weight: IntegerWeight, quantizer: InputQuantizer) -> Weighted:
    grid = Symbols(float(quantizer.scale.detach()), int(quantizer.zero_point), 2**quantizer.bits - 1)
    bias = None if layer.bias is None else layer.bias.detach().clone()
    window = None
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        sizes: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        if isinstance(layer, nn.Conv1d):
            sizes = [(first, *size) for first, size in zip((1, 1, 0, 1), sizes, strict=True)]
            weight = IntegerWeight(weight.symbols.unsqueeze(2), weight.scale)
        kernel, stride, padding, dilation = sizes
        line = isinstance(layer, nn.Conv1d)
        window = Window(kernel, stride, padding, dilation, layer.groups, line=line)
    return Weighted(weight, bias, grid, None, window)


def _layerwise(
    plain: nn.Module, example: Inputs, layers: dict[str, Weighted], kernels: bool
) -> tuple[nn.Module, list[str]]:
    """Every layer by itself, with floating point between; and the names of what runs in that."""
    _replace(plain, layers, fast.kernels if kernels else exact.reference)
    network = plain if kernels else WithFunctions(plain)
    watch = IntegerFunctions(integer=not kernels)
    ours = [module for module in plain.modules() if isinstance(module, OURS)]
    calls: list[tuple[DynamicLinear, torch.Tensor, int]] = []
    with watch, watch.passing(ours), _listening(plain, calls), torch.no_grad():
        try:
            call(plain, example)
        except Exception as error:
            raise GraphError(
                f"a {type(plain).__name__} that does not run on the example ({str(error)[:120]})",
                expected="inputs as the network takes them",
            ) from error
    Siblings.found(calls)
    return network, sorted(watch.floating)


def _listening(
    plain: nn.Module, calls: list[tuple[DynamicLinear, torch.Tensor, int]]
) -> AbstractContextManager[None]:
    """Collect which layers that round at run time are called, and with what."""

    def listen(_: str, layer: Any, inputs: tuple[Any, ...]) -> None:
        calls.append((layer, inputs[0], inputs[0]._version))

    layers = {name: module for name, module in plain.named_modules() if isinstance(module, DynamicLinear)}
    return before_calls(layers, listen)
