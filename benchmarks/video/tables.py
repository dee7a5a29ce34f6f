"""Curves to ratios, and the tables of docs/results.md."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.video.clips import Row
from plisse.codec.compare import Point, ratio
from plisse.codec.weightstep import FINER_KEYS
from plisse.cost.profile import bd_rate
from plisse.errors import InputError

NETWORKS = ("networks", "slow", "weights", "still")
CURVES = ("codecs", "warp", *NETWORKS, "whole")
OTHERS = ("x264 slow", "x265 slow")
OWN = {"steps": "alone", "weights": "plain", "still": "plain"}
"""What a step of each form is beside: a network of its own of the same form."""
N_PLACES = 33
"""Where two curves are compared at equal bytes."""

Pair = tuple[float, float]
"""Bytes of a frame, and luma PSNR in dB."""
Curves = dict[tuple[str, str], list[Point]]


def derived(rows: list[Row]) -> dict[str, list[Row]]:
    """What is computed from rows."""
    found = curves(rows)
    return {
        "ratios": ratios(found),
        "stepping": stepping(rows, found),
        "equal_bytes": equal_bytes(found),
    }


def curves(rows: list[Row]) -> Curves:
    """Points of each clip and codec, by rising luma; codecs in the order of parts."""
    found: Curves = {}
    for part in CURVES:
        for row in (row for row in rows if row["part"] == part):
            fields = {field.name: row[field.name] for field in dataclasses.fields(Point) if field.name in row}
            found.setdefault((row["clip"], row["codec"]), []).append(Point(**fields))
    return {key: sorted(points, key=lambda point: point.luma) for key, points in found.items()}


def ratios(found: Curves) -> list[Row]:
    """Bytes over those of x264 and x265 at equal PSNR: geometric mean, and the largest of any point."""
    table = []
    for (name, codec), points in found.items():
        if codec in OTHERS or codec.split()[-1] in OWN.values():
            continue
        row: Row = {"clip": name, "codec": codec, "lumas": [points[0].luma, points[-1].luma]}
        for other in OTHERS:
            theirs = found.get((name, other), [])
            each = [ratio([point], theirs, "luma") for point in points]
            row[f"{other} luma"] = ratio(points, theirs, "luma")
            row[f"{other} rgb"] = ratio(points, theirs, "rgb")
            row[f"{other} worst"] = max((r for r in each if r is not None), default=None)
            row[f"{other} points"] = sum(r is not None for r in each)
        table.append(row)
    return table


def stepping(rows: list[Row], found: Curves) -> list[Row]:
    """What weight steps save over frames that are networks of their own, of the preset that does best:
    BD-rate, and the share that a step takes of such a network of the same luma PSNR."""
    table = []
    for name, codec in found:
        scheme, preset, word, *_ = (*codec.split(), "")
        if word in OWN:
            of_clip = [row for row in rows if row["part"] in NETWORKS and row["clip"] == name]
            steps = sorted((r for r in of_clip if r["codec"] == codec), key=lambda row: row["luma"])
            own = own_networks(of_clip, scheme)
            alone = list(own.values())
            whole = [(float(np.mean(row["sizes"])), row["luma"]) for row in steps]
            table.append(
                {
                    "clip": name, "codec": codec, "bd_rate": saving(alone, whole),
                    "shares": [step_share(row, alone) for row in steps],
                    "shares_same_number": [
                        _step_bytes(r) / own[at][0] if (at := (preset, OWN[word], r["crf"])) in own else None
                        for r in steps
                    ],
                    "lumas": [row["luma"] for row in steps],
                    "key_bits_per_weight": [8 * row["sizes"][0] / row["weights"] for row in steps],
                    "step_bits_per_weight": [8 * _step_bytes(row) / row["weights"] for row in steps],
                }
            )  # fmt: skip
    return table


def own_networks(rows: Iterable[Row], scheme: str) -> dict[tuple[str, str, float], Pair]:
    """Mean bytes and luma PSNR of networks of their own by preset, form and quality number: frames that were
    coded alone, and the first frames of clips whose steps move, which are finer by FINER_KEYS."""
    found: dict[tuple[str, str, float], list[Pair]] = {}
    for row in rows:
        of, preset, word = row["codec"].split()
        if of == scheme and word != "still":
            stepped = word in OWN
            crf = row["crf"] - (FINER_KEYS if stepped else 0)
            n_frames = 1 if stepped else len(row["sizes"])
            pairs = zip(row["sizes"][:n_frames], row["lumas"][:n_frames], strict=True)
            found.setdefault((preset, OWN.get(word, word), crf), []).extend(pairs)
    return {
        key: (float(np.mean([p[0] for p in pairs])), float(np.mean([p[1] for p in pairs])))
        for key, pairs in found.items()
    }


def _step_bytes(row: Row) -> float:
    """Mean bytes of a step."""
    return float(np.mean([size for i, size in enumerate(row["sizes"]) if i not in row["keys"]]))


def step_share(row: Row, alone: Iterable[Pair]) -> float | None:
    """Bytes of a step over those of a network of its own that reaches the mean luma PSNR of the steps (linear
    in log bytes between measured ones); None where none is that good or that bad."""
    reached = float(np.mean([luma for i, luma in enumerate(row["lumas"]) if i not in row["keys"]]))
    pairs = front(alone)
    if not pairs or not pairs[0][1] <= reached <= pairs[-1][1]:
        return None
    logs = np.log([pair[0] for pair in pairs])
    return _step_bytes(row) / float(np.exp(np.interp(reached, [pair[1] for pair in pairs], logs)))


def saving(others: Iterable[Pair], pairs: Iterable[Pair]) -> float | None:
    """BD-rate of pairs over others in per cent, below 0 where they need less; None without an overlap."""
    a, b = front(others), front(pairs)
    try:
        return float(bd_rate([p[0] for p in a], [p[1] for p in a], [p[0] for p in b], [p[1] for p in b]))
    except InputError:
        return None


def front(pairs: Iterable[Pair]) -> list[Pair]:
    """Pairs that no other one beats with fewer bytes, by rising bytes."""
    kept: list[Pair] = []
    for pair in sorted(pairs, key=lambda p: (p[0], -p[1])):
        if not kept or pair[1] > kept[-1][1]:
            kept.append(pair)
    return kept


def equal_bytes(found: Curves) -> list[Row]:
    """Other networks beside convolutional ones of the same preset and form, in dB at equal bytes; networks of
    whole clips beside weight steps with motion alone."""
    table = []
    for (name, codec), points in found.items():
        scheme, preset, form, *_ = (*codec.split(), "weights")
        if scheme not in ("siren", "whole") or form not in ("steps", "weights"):
            continue
        conv = found.get((name, f"conv {preset} {form}"))
        if conv is not None:
            row: Row = {"clip": name, "codec": codec, "beside": f"conv {preset} {form}"}
            table.append(row | {of: gain(conv, points, of) for of in ("luma", "rgb")})
    return table


def gain(others: Sequence[Point], points: Sequence[Point], of: str = "luma") -> float | None:
    """dB of points over others at equal bytes, mean over the bytes that both curves span (PSNR linear in log
    bytes); None where they span none in common."""
    a, b = (front((math.log(p.bytes), getattr(p, of)) for p in curve) for curve in (others, points))
    low, high = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])
    if low >= high:
        return None
    at = np.linspace(low, high, N_PLACES)
    ours, theirs = (np.interp(at, [p[0] for p in c], [p[1] for p in c]) for c in (b, a))
    return float(np.mean(ours - theirs))


def section(data: dict[str, Any]) -> str:
    """Tables of a small or a large run, as Markdown."""
    parts = [
        HEAD,
        _table(("clip", "codec", "luma PSNR", "bytes / x264", "largest", "bytes / x265"), _ratios(data)),
    ]
    if data.get("stepping"):
        head = (
            "clip",
            "codec",
            "luma PSNR",
            "BD-rate",
            "step / own network",
            "at one number",
            "bits a weight: key",
            "step",
        )
        parts += [STEPS, _table(head, _stepping(data))]
        parts += ["\n".join(_equal(data))]
    some = [row for row in data["rows"] if row["part"] == "files"]
    if some:
        titles = ("file", "codec", "frames", "same frames", "bytes / ideal: key", "steps", "file")
        parts += [FILES, _table(titles, map(_file, some))]
    for row in data["rows"]:
        if row["part"] == "speed":
            parts += [SPEED, _table(("scheme", "1 thread", "2 threads"), _speeds(row))]
    peaks = [row for row in data["rows"] if row["part"] == "memory"]
    if peaks:
        parts += [MEMORY, _table(("codec", "frames", "encode, MiB", "decode, MiB"), map(_peaks, peaks))]
    return "\n\n".join(parts) + "\n"


HEAD = """## Video (`python -m benchmarks.video`)

Bytes of the stream at equal PSNR of luma, from decoded frames; x264 and x265 with preset slow and without the
text that they write about themselves. Geometric means, and the largest, of our points that lie inside the
other curve; "carphone/30" is the first 30 frames. `warp` was tuned on the first 8 frames of carphone; which
clips the first weights of its refiner were fitted to is not on record."""
STEPS = """Steps of networks: with motion and latents ("steps"), of weights with motion ("weights"), of
weights alone ("still"); against networks of their own (of the first frame and of every fourth one; the best
of all presets, with latents or without): BD-rate of the whole clip, and bytes of a step over those of a
network of the same luma PSNR (at so many of the rates; at others none was as good or as bad), and over those
of one of the same form at the same quality number. Bits are those of all that a frame takes."""
FILES = """Files in fresh processes, with one thread and with two; and bytes over the bits that the models ask
for, -sum log2 p: of what the scheme writes for key frames and for steps, and of the whole file with its
checksums and lengths."""
SPEED = """Frames per second decoded, in turns; one thread by processor time, two by the clock on a machine
with other work."""

MEMORY = "Peak memory of the commands at 1920 x 1080, one thread, Python and torch included."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * 2 + "---:|" * (len(head) - 2)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _span(values: Sequence[float | None], form: str = ".2f") -> str:
    """Least to largest."""
    some = [value for value in values if value is not None]
    return f"{min(some):{form}} to {max(some):{form}}" if some else "-"


def _some(values: Sequence[float | None]) -> str:
    """Least to largest, and how many there are."""
    n_found = sum(value is not None for value in values)
    return f"{_span(values)} ({n_found} of {len(values)})" if n_found else "-"


def _ratios(data: dict[str, Any]) -> Iterable[Sequence[str]]:
    for row in data["ratios"]:
        cells = (row["x264 slow luma"], row["x264 slow worst"], row["x265 slow luma"])
        yield (row["clip"], row["codec"], _span(row["lumas"], ".1f"), *map(_number, cells))


def _stepping(data: dict[str, Any]) -> Iterable[Sequence[str]]:
    for row in data["stepping"]:
        yield (
            row["clip"], row["codec"], _span(row["lumas"], ".1f"),
            "-" if row["bd_rate"] is None else f"{row['bd_rate']:.0f} %", _some(row["shares"]),
            _span(row["shares_same_number"]),
            _span(row["key_bits_per_weight"]), _span(row["step_bits_per_weight"]),
        )  # fmt: skip


def _equal(data: dict[str, Any]) -> Iterable[str]:
    for row in data["equal_bytes"]:
        if row["luma"] is None:
            yield f"{row['clip']}: {row['codec']} and {row['beside']} have no bytes in common."
        else:
            beside = f"{row['luma']:+.1f} dB beside {row['beside']}"
            yield f"{row['clip']}: {row['codec']} is {beside} at equal bytes."


def _file(row: Row) -> Sequence[str]:
    shares = (row["key_over_ideal"], row["step_over_ideal"], row["file_over_ideal"])
    same = "yes" if row["identical"] else "NO"
    return (row["clip"], row["codec"], str(row["frames"]), same, *(_number(s, ".3f") for s in shares))


def _peaks(row: Row) -> Sequence[str]:
    return row["codec"], str(row["frames"]), f"{row['encode_mib']:,}", f"{row['decode_mib']:,}"


def _speeds(row: Row) -> Iterable[Sequence[str]]:
    for key in row:
        scheme, _, threads = key.partition(" fps ")
        if threads == "1":
            yield (
                f"{scheme} {row['codec']}",
                _number(row[key], ".1f"),
                _number(row[f"{scheme} fps 2"], ".1f"),
            )
