"""Reading checkpoints into networks, with an exact account of what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from plisse.core.modules import check_finite
from plisse.data.folder import require
from plisse.errors import InputError, WeightsError

OPTIONAL = "num_batches_tracked"
SHOWN = 3


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file; the prefix `module.` of data-parallel training is taken off.

    Raises InputError for another format (pickled checkpoints could run code), WeightsError for a broken file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = require(path, "a .safetensors file")
    if path.suffix != ".safetensors":
        raise InputError(
            f"weights {str(path)!r}{', a folder' * path.is_dir()}",
            expected="a .safetensors file; pickled checkpoints could run code",
            hint="safetensors.torch.save_file(torch.load(old, weights_only=True), new)",
        )
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{str(path)!r}, which is no safetensors file ({error})") from error
    prefixed = bool(state) and all(name.startswith("module.") for name in state)
    return {name.removeprefix("module."): value for name, value in state.items()} if prefixed else state


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str | Path = "the checkpoint") -> None:
    """Write every tensor of `state` into `model`, in place, after checking that all fit.

    Raises WeightsError with the first tensor of another shape, or of integers for real numbers, else the
    missing and unexpected names, and for values that are not finite. Counters of batch normalization may be
    missing.
    """
    own = model.state_dict()
    for name, value in state.items():
        if name in own and own[name].shape != value.shape:
            raise WeightsError(
                f"{name!r} of shape {tuple(value.shape)} in {str(source)!r}",
                expected=f"{tuple(own[name].shape)}",
                hint="a network with the same options, such as resnet20(classes=100)",
            )
        if name in own and own[name].is_floating_point() and not value.is_floating_point():
            raise WeightsError(
                f"{name!r} of {str(value.dtype).removeprefix('torch.')} in {str(source)!r}",
                expected="floating-point numbers",
                hint="the checkpoint before it was quantized",
            )
    missing = [name for name in own if name not in state and not name.endswith(OPTIONAL)]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        raise WeightsError(
            f"{str(source)!r} with {_some('missing', missing)} and {_some('unexpected', unexpected)} tensors",
            expected=f"the {len(own)} tensors of {type(model).__name__}",
        )
    model.load_state_dict(dict(state), strict=False)
    check_finite(model)


def _some(kind: str, names: Iterable[str]) -> str:
    """ "2 missing (a, b)"."""
    names = list(names)
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")
