"""torchao: weight-only integers in groups, dynamic int8, and static PT2E quantization with 8 and 4 bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import torch
from torch import nn
from worker import Case, Made, Setting, main

GROUPED = (nn.Linear, nn.Conv2d)


def saved(model: nn.Module, files: Path) -> int:
    """Bytes of torch.save(state_dict), the way its documentation saves a quantized network."""
    path = files / "model.pt"
    torch.save(model.state_dict(), path)
    return path.stat().st_size


def inner(model: nn.Module) -> list[nn.Module]:
    """Layers between the first and the last of ResNet-20 that a group of inputs fits; all of the encoder."""
    layers = [m for m in model.modules() if isinstance(m, GROUPED)]
    return layers[1:-1] if isinstance(model, networks.ResNet20) else layers


def weight_only(folder: Path, files: Path, bits: int, group: int, hqq: bool, symmetric: bool) -> Made:
    """Rounded weights; first and last layer of ResNet-20 and the word embeddings of the encoder to 8 bits."""
    from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerAxis, PerGroup, quantize_
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm as Algorithm

    model = networks.NETWORKS[folder.name](folder)
    low = inner(model)
    common: dict[str, Any] = {
        "mapping_type": MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC,
        "intx_choose_qparams_algorithm": Algorithm.HQQ_SCALE_ONLY if hqq else Algorithm.AFFINE,
    }
    for size in {min(group, layer.weight.shape[1]) if group else 0 for layer in low}:
        chosen = [m for m in low if (min(group, m.weight.shape[1]) if group else 0) == size]
        config = IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{bits}"),
            granularity=PerGroup(size) if size else PerAxis(0),
            **common,
        )
        quantize_(model, config, filter_fn=lambda m, _, chosen=chosen: any(m is c for c in chosen))
    rest = (nn.Embedding,) if folder.name == "minilm" else GROUPED
    eight = IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0))
    quantize_(model, eight, filter_fn=lambda m, _: isinstance(m, rest) and not any(m is c for c in low))
    fresh = networks.NETWORKS[folder.name](folder)
    packed = networks.packed_bytes(fresh, bits, group, 8, 8, offset_bits=0 if symmetric else 8)
    kept = saved(model, files)
    note = "one byte per weight whatever the bits"
    return Made(networks.torch_function(model), kept, "torch.save of its state", note, packed)


def linear_config(folder: Path, files: Path, name: str) -> Made:
    """A config for linear layers alone."""
    import torchao.quantization as ao

    model = networks.NETWORKS[folder.name](folder)
    ao.quantize_(model, getattr(ao, name)())
    note = "linear layers alone; embeddings stay float32"
    return Made(networks.torch_function(model), saved(model, files), "torch.save of its state", note)


def packed_uintx(folder: Path, files: Path, bits: int) -> Made:
    """The prototype that packs bits."""
    from torchao.prototype.quantization.quant_api import UIntxWeightOnlyConfig
    from torchao.quantization import quantize_

    model = networks.NETWORKS[folder.name](folder)
    quantize_(model, UIntxWeightOnlyConfig(bit_width=bits))
    return Made(networks.torch_function(model), saved(model, files), "torch.save of its state")


def config_of(weights: int, activations: int) -> Any:
    """The default configuration of the X86 quantizer, with narrower ranges where asked."""
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        get_default_x86_inductor_quantization_config,
    )

    default = get_default_x86_inductor_quantization_config()
    top = 2 ** (weights - 1)
    weight = dataclasses.replace(default.weight, quant_min=-top, quant_max=top - 1)
    inputs = dataclasses.replace(default.input_activation, quant_max=2**activations - 1)
    return dataclasses.replace(default, weight=weight, input_activation=inputs)


def static(folder: Path, files: Path, weights: int, activations: int) -> Made:
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

    model = networks.NETWORKS[folder.name](folder)
    example = tuple(map(torch.from_numpy, networks.batches(folder, "calibration")[0]))
    dynamic = ({0: torch.export.Dim("batch", min=2, max=1024)},)
    exported = torch.export.export(model, example, dynamic_shapes=dynamic).module()
    quantizer = X86InductorQuantizer().set_global(config_of(weights, activations))
    if weights < 8:
        for name in ("conv1", "linear"):
            quantizer.set_module_name_qconfig(name, config_of(8, 8))
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for batch in networks.batches(folder, "calibration"):
            prepared(*map(torch.from_numpy, batch))
    converted = convert_pt2e(prepared)
    move_exported_model_to_eval(converted)
    size = saved(converted, files)
    packed = networks.packed_bytes(model, weights, edge_bits=8)
    note = "rounded weights kept in float32 until compiled"
    return Made(networks.torch_function(converted), size, "torch.save of its state", note, packed)


def case(
    network: str, name: str, method: str, make: Callable[..., Made], *arguments: Any, data: str = "none"
) -> Case:
    weights, activations = (float(part) for part in name[1:].split("A"))
    setting = Setting(network, name, weights, activations, method, data)
    return Case(setting, lambda folder, files: make(folder, files, *arguments))


def weight_only_case(network: str, bits: int, group: int, hqq: bool = False, symmetric: bool = True) -> Case:
    rest = "first and last layer" if network == "resnet20" else "embeddings"
    method = (
        f"intx weight-only, {f'groups of {group}' if group else 'per channel'}, "
        f"{'symmetric' if symmetric else 'asymmetric'}{', HQQ scale' if hqq else ''}, {rest} 8 bits"
    )
    return case(network, f"W{bits}A32", method, weight_only, bits, group, hqq, symmetric)


def cases() -> list[Case]:
    found = [
        case("resnet20", f"W{w}A{a}", "PT2E static, histogram ranges", static, w, a, data="256 images")
        for w, a in ((8, 8), (4, 8), (4, 4))
    ]
    found.append(weight_only_case("resnet20", 8, 0))
    for network in ("resnet20", "minilm"):
        for bits in (4, 3, 2):
            found += [
                weight_only_case(network, bits, 0),
                weight_only_case(network, bits, 32),
                weight_only_case(network, bits, 32, symmetric=False),
                weight_only_case(network, bits, 32, hqq=True),
            ]
        found.append(case(network, "W4A32", "bit-packed uintx prototype", packed_uintx, 4))
    for name, title in (("Int8WeightOnlyConfig", "W8A32"), ("Int8DynamicActivationInt8WeightConfig", "W8A8")):
        found.append(case("minilm", title, name, linear_config, name))
    found.append(weight_only_case("minilm", 8, 0))
    found.append(case("minilm", "W4A32", "Int4WeightOnlyConfig", linear_config, "Int4WeightOnlyConfig"))
    return found


if __name__ == "__main__":
    main(cases(), ("torchao", "torch", "transformers", "numpy"))
