"""Files of many operating points on disk: writing a trained subspace, opening it to be served."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from plisse.adapt import file
from plisse.adapt.elastic import Switching
from plisse.adapt.subspace import Subspace
from plisse.bitstream import modelfile
from plisse.core.origin import origin_of
from plisse.networks.assets import assets
from plisse.networks.build import build


def save_subspace(subspace: Subspace, path: str | Path, notes: Mapping[str, Any] | None = None) -> int:
    """Write all points of `subspace`, with the network's assets, whole or not at all; gives the bytes.

    Raises GraphError for a network whose origin is unknown, OutputError where the file cannot be written.
    """
    network = subspace.wrapped.model
    origin = origin_of(network)
    skeleton = build(origin, (origin.name,))
    data = file.dumps(subspace, skeleton, assets=assets(network), notes=notes)
    modelfile.write(path, data)
    return len(data)


def open_subspace(path: str | Path, allow: Collection[str] = ()) -> Subspace:
    """The subspace in a file, with its assets. One that ends early gives its complete points, with a warning.

    allow: the factories ("package.module:callable") that the file may name.
    """
    return file.loads(modelfile.read(path), lambda origin: build(origin, allow))


def open_elastic(path: str | Path, allow: Collection[str] = ()) -> Switching:
    """What serves a file of many operating points; see `open_subspace`."""
    return open_subspace(path, allow).elastic()


def is_elastic_file(path: str | Path) -> bool:
    """Whether there is a file at `path` that holds many operating points."""
    return Path(path).is_file() and file.is_elastic(modelfile.read(path))
