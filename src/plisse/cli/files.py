"""plisse inspect and plisse export: what is in a file, and other formats."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plisse.cli import options
from plisse.cli.elastic import inspect_points, is_elastic
from plisse.cli.failures import reported
from plisse.cli.opening import open_named_task, open_network
from plisse.cli.output import check_outputs, print_json, stdout, working
from plisse.errors import InputError

if TYPE_CHECKING:
    from plisse.bitstream.modelfile import ModelSummary
    from plisse.export.report import ExportReport

All = Annotated[
    bool, typer.Option("--all", help="Every tensor, not only the largest.", rich_help_panel=options.OUTPUT)
]
Onnx = Annotated[
    Path,
    typer.Option(
        "--onnx", metavar="OUT", help="The ONNX file to write.", show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]  # fmt: skip
Integer = Annotated[
    bool,
    typer.Option(
        "--integer", rich_help_panel=options.OUTPUT,
        help="8-bit integers (QDQ), with ranges from the task's calibration samples.",
    ),
]  # fmt: skip
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", rich_help_panel=options.OUTPUT,
        help="With --integer: fail where a layer would stay in floating point.",
    ),
]  # fmt: skip


@reported
def inspect(
    file: options.File,
    allow: options.Allow = None,
    everything: All = False,
    as_json: options.Json = False,
) -> None:
    """Show what a .plisse file holds, and what each part costs. Nothing is trained or run."""
    if is_elastic(file):
        return inspect_points(file, allow, as_json)
    with working(f"reading {file}"):
        found = _summary(file, allow)
    if as_json:
        print_json({"file": file, **dataclasses.asdict(found)})
        return
    _print_summary(file, found, everything)


@reported
def export(
    model: options.Model,
    onnx: Onnx,
    integer: Integer = False,
    weights: options.Weights = None,
    allow: options.Allow = None,
    task: options.Task = "digits",
    data: options.Data = None,
    seed: options.Seed = 0,
    strict: Strict = False,
    as_json: options.Json = False,
) -> None:
    """Write a network or a .plisse file as ONNX, checked against it with ONNX Runtime.

    The task gives the shape of the inputs, and the samples that --integer calibrates on.
    """
    check_outputs([model, weights], onnx=onnx)
    with working("loading") as say:
        from plisse.export.integer import to_integer_onnx
        from plisse.export.onnx import to_onnx

        network = open_network(model, weights, allow, seed)
        opened = open_named_task(task, data, network, seed)
        say(f"exporting to {onnx}")
        if integer:
            samples = [batch.inputs for batch in opened.calibration]
            found = to_integer_onnx(network, opened.example, samples, onnx, strict=strict)
        else:
            found = to_onnx(network, opened.example, onnx)
    if as_json:
        print_json({**dataclasses.asdict(found), "integer": integer})
        return
    words = f"wrote {onnx} ({found.bytes:,} bytes, {'8-bit integers' if integer else 'float32'})"
    stdout().print(f"{words}; {_checked(found)}", markup=False, soft_wrap=True)


def _checked(found: ExportReport) -> str:
    """What the comparison of the exported file with the network gave."""
    parts = [f"largest difference {found.max_error:.2g} of the largest output"]
    if found.agreement is not None:
        parts.append(f"same class for {100 * found.agreement:.2f} % of the calibration samples")
    if found.snr is not None:
        parts.append(f"{found.snr:.1f} dB")
    parts += [f"{number} {kind}" for kind, number in found.integer_operators.items()]
    return f"checked with ONNX Runtime: {', '.join(parts)}"


def _summary(file: Path, allow: list[str] | None) -> ModelSummary:
    """The summary with the names of the tensors, or with their positions where the file's network comes from
    a factory that was not allowed."""
    from plisse.bitstream import modelfile
    from plisse.networks.build import build

    data = modelfile.read(file)
    try:
        return modelfile.summary(data, lambda origin: build(origin, tuple(allow or ())))
    except InputError:
        return modelfile.summary(data)


def _print_summary(file: Path, found: ModelSummary, everything: bool) -> None:
    from plisse.compress.result import TensorRow
    from plisse.report import wording
    from plisse.report.tables import TENSORS_SHOWN, tensors_table

    console = stdout()
    arguments = ", ".join(f"{key}={value}" for key, value in found.origin.arguments.items())
    origin = f"{found.origin.name}({_cut(arguments)})" if arguments else found.origin.name
    lines = [f"{file}: {found.total:,} bytes", f"network: {origin} ({found.origin.kind})"]
    if found.edits:
        layers = Counter(edit.layer for edit in found.edits)
        kinds = ", ".join(f"{number} {layer}" for layer, number in layers.most_common())
        lines.append(f"edits: {len(found.edits)} layers differ from it ({kinds})")
    lines += [f"{key}: {_cut(' '.join(str(value).split()))}" for key, value in found.notes.items() if value]
    lines += [f"asset: {name}, {wording.size(n_bytes)}" for name, n_bytes in found.assets.items()]
    lines.append(f"head and checksums: {wording.size(found.overhead)}")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    console.print()
    rows = [TensorRow(e.name, e.shape, e.bytes, e.coding, e.zeros) for e in found.tensors]
    console.print(tensors_table(rows, len(rows) if everything else TENSORS_SHOWN))


def _cut(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
