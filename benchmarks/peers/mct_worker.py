"""Sony's model_compression_toolkit: post-training and gradient-based (GPTQ) quantization of ResNet-20.

Its networks simulate: weights stay in float32, so that `packed_bytes` tells what they would take packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networks
import torch
from worker import Case, Made, Setting, main, shim_torchvision

EPOCHS = 10
PLAIN, HESSIAN = "GPTQ", "GPTQ weighted by Hessians"


def calibration(folder: Path) -> Callable[[], Iterator[list[torch.Tensor]]]:
    def batches() -> Iterator[list[torch.Tensor]]:
        for batch in networks.batches(folder, "calibration", 32):
            yield [torch.from_numpy(array) for array in batch]

    return batches


def capabilities(bits: tuple[int, ...], activations: int) -> Any:
    """Its imx500 description with other kernel bits, changed as its docstring tells users to."""
    from model_compression_toolkit.target_platform_capabilities.constants import KERNEL_ATTR, WEIGHTS_N_BITS
    from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import tpc

    base, _, default = tpc.get_op_quantization_configs()
    narrow = {"activation_n_bits": activations, "supported_input_activation_n_bits": (activations, 8)}
    if activations < 8:
        base, default = (config.clone_and_edit(**narrow) for config in (base, default))
    offered = [base.clone_and_edit(attr_to_edit={KERNEL_ATTR: {WEIGHTS_N_BITS: b}}) for b in bits]
    return tpc.generate_tpc(default, offered[0], offered, "custom")


def core_config(model: torch.nn.Module, bits: tuple[int, ...], share: float | None) -> Any:
    """First and last layer at the highest width, the others at the lowest, or free where `share` is given."""
    import model_compression_toolkit as mct
    from model_compression_toolkit.core.common.network_editors.node_filters import NodeNameFilter

    config = mct.core.CoreConfig(
        quantization_config=mct.core.QuantizationConfig(shift_negative_activation_correction=False),
        mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig(num_of_images=32)
        if len(bits) > 1
        else None,
    )
    if share is None and len(bits) > 1:
        chosen = mct.core.BitWidthConfig()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                width = bits[0] if name in ("conv1", "linear") else bits[-1]
                chosen.set_manual_weights_bit_width(node_filter(NodeNameFilter, name), width, "weight")
        config = mct.core.CoreConfig(
            quantization_config=config.quantization_config,
            mixed_precision_config=config.mixed_precision_config,
            bit_width_config=chosen,
        )
    return config


def node_filter(kind: Any, name: str) -> Any:
    """The name of a module in its graph, where batch norms are folded into convolutions."""
    return kind(name.replace(".", "_") + ("" if name == "linear" else "_bn"))


def quantized(
    folder: Path, files: Path, bits: tuple[int, ...], activations: int, gradient: str, share: float | None
) -> Made:
    shim_torchvision()
    import model_compression_toolkit as mct

    model = networks.NETWORKS[folder.name](folder)
    limit = mct.core.ResourceUtilization()
    if share:
        total = sum(
            m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
        )
        limit = mct.core.ResourceUtilization(weights_memory=total * share / 8)
    common = {
        "representative_data_gen": calibration(folder),
        "target_resource_utilization": limit,
        "core_config": core_config(model, bits, share),
        "target_platform_capabilities": capabilities(bits, activations),
    }
    if gradient:
        weighted = gradient == HESSIAN
        settings = mct.gptq.get_pytorch_gptq_config(
            EPOCHS, use_hessian_based_weights=weighted, use_hessian_sample_attention=weighted
        )
        result, found = mct.gptq.pytorch_gradient_post_training_quantization(
            model, gptq_config=settings, **common
        )
    else:
        result, found = mct.ptq.pytorch_post_training_quantization(model, **common)
    torch.save(result.state_dict(), files / "model.pt")
    size = (files / "model.pt").stat().st_size
    packed = networks.packed_bytes(model, share or bits[-1], edge_bits=0 if share else bits[0])
    note = f"simulated in float32; its own figure for the weights: {weights_memory(found)} bytes"
    return Made(networks.torch_function(result), size, "torch.save of its state", note, packed)


def weights_memory(found: Any) -> str:
    final = getattr(found, "final_resource_utilization", None)
    return f"{final.weights_memory:.0f}" if final is not None else "none"


def case(bits: tuple[int, ...], activations: int, gradient: str = "", share: float | None = None) -> Case:
    """bits: the widths on offer. gradient: PLAIN, HESSIAN or none. share: mean bits of a mixed precision."""
    width = share or bits[-1]
    kind = f"{gradient}, {EPOCHS} epochs" if gradient else "PTQ"
    where = ", first and last layer 8 bits" if len(bits) > 1 else ""
    where = f", mixed {'/'.join(map(str, bits))}" if share else where
    setting = Setting("resnet20", f"W{width:g}A{activations}", width, activations, kind + where, "256 images")
    return Case(setting, lambda d, f: quantized(d, f, bits, activations, gradient, share))


def encoder(folder: Path, files: Path) -> Made:
    return quantized(folder, files, (8,), 8, "", None)


CASES = [
    case((8,), 8),
    case((8, 4), 8),
    case((8, 3), 8),
    case((8, 4), 4),
    case((8, 2), 8),
    case((8, 3), 8, PLAIN),
    case((8, 4), 4, PLAIN),
    case((8, 2), 8, PLAIN),
    case((8, 4), 8, PLAIN),
    case((8, 4, 3, 2), 8, share=3.0),
    case((8, 4, 3, 2), 8, PLAIN, share=3.0),
    *(case((8, low), high, HESSIAN) for low, high in ((4, 8), (4, 4), (3, 8), (2, 8))),
    Case(Setting("minilm", "W8A8", 8, 8, "PTQ", "512 sentences"), encoder),
]

if __name__ == "__main__":
    main(CASES, ("model_compression_toolkit", "torch", "torchvision", "numpy"))
