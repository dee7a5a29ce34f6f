"""A comparison of video codecs as one HTML file that opens offline: curves, what they mean, and frames."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from plisse.bitstream.atomic import write_atomic
from plisse.codec.compare import Point
from plisse.codec.curves import Comparison, Curve
from plisse.data.frames import Frame
from plisse.report import plots, wording
from plisse.report.axes import axis
from plisse.report.html import POLICY, section, table
from plisse.report.style import CSS

COLOURS = ("#1f5fbf", "#c2410c", "#137a45", "#8b3fa8", "#8a6d00")
DARK_COLOURS = ("#6ea8fe", "#fb923c", "#5bd08f", "#d09be8", "#e0c050")
SHAPES = ("circle", "square", "triangle", "diamond", "circle")
WIDEST_PICTURE = 640


def write_comparison(found: Comparison, path: str | Path, *, title: str) -> None:
    """Write the page to `path`; an older file is replaced only when the new one is whole.

    Raises OutputError where the file cannot be written.
    """
    write_atomic(Path(path), comparison_page(found, title=title).encode())


def comparison_page(found: Comparison, *, title: str) -> str:
    """The whole page as text."""
    height, width = found.original.size
    about = f"{found.n_frames} frames of {width} × {height} at {float(found.rate):g} per second"
    body = [
        f"<header><h1>{escape(title)}</h1><p>{escape(about)}</p></header>",
        f'<section><h2>Rate and distortion</h2><p class="note">{escape(_NOTES["curves"])}</p>'
        f'{legend(found.curves)}<div class="pair">{_charts(found.curves)}</div></section>',
        section("At equal quality and at equal bytes", _NOTES["equal"], equal_table(found)),
        section(f"Frame {found.index}", _NOTES["frames"], pictures(found)),
        section("All points", _NOTES["points"], points_table(found.curves)),
        "<footer>Written by Plissé. This page loads nothing from elsewhere.</footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}{_css()}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def curves_chart(curves: Sequence[Curve], quality: Callable[[Point], float | None], name: str) -> str:
    """Quality against bytes (logarithmic), a line and marks for each curve. Points without a finite value
    are left out."""
    shown = [
        (
            number,
            curve.name,
            [(p, q) for p in curve.points if (q := quality(p)) is not None and math.isfinite(q)],
        )
        for number, curve in enumerate(curves)
    ]
    pairs = [pair for _, _, points in shown for pair in points]
    if not pairs:
        return plots.notice(f"No finite values of {name}.")
    x = axis([p.bytes for p, _ in pairs], plots.LEFT, plots.WIDTH - plots.RIGHT, log=True)
    y = axis([q for _, q in pairs], plots.HEIGHT - plots.BOTTOM, plots.TOP, log=False)
    body = [plots.grid(x, y, wording.round_size, "{:g}".format), plots.titles("bytes of the file", name)]
    for number, label, points in reversed(shown):
        ordered = sorted(points, key=lambda pair: pair[0].bytes)
        places = " ".join(f"{x(p.bytes):.1f},{y(q):.1f}" for p, q in ordered)
        body.append(f'<polyline class="curve c{number}" points="{places}"/>')
        for p, q in ordered:
            words = f"{label}, crf {p.crf:g}: {wording.size(p.bytes)}, {q:.4g}"
            body.append(mark(number, x(p.bytes), y(q), words))
    return plots.chart("".join(body), f"{name} against bytes: {', '.join(label for _, label, _ in shown)}")


def mark(number: int, x: float, y: float, words: str) -> str:
    """A point of a curve; curves differ in shape too, for those who do not see colours."""
    kind, title = f'class="m c{number}"', f"<title>{escape(words)}</title>"
    shape = SHAPES[number % len(SHAPES)]
    if shape == "circle":
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.3), (1.2, 1), (-1.2, 1)),
        "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    }[shape]
    places = " ".join(f"{x + 3.7 * a:.1f},{y + 3.7 * b:.1f}" for a, b in corners)
    return f'<polygon {kind} points="{places}">{title}</polygon>'


def legend(curves: Sequence[Curve]) -> str:
    """Which line is which."""
    items = (
        f'<li><svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true">'
        f'<polyline class="curve c{n}" points="0,6 28,6"/>{mark(n, 14, 6, curve.name)}</svg>'
        f"{escape(curve.name)}</li>"
        for n, curve in enumerate(curves)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def equal_table(found: Comparison) -> str:
    """Ratios of bytes, and differences in luma at the bytes of each of our points."""
    first, *others = found.curves
    ratios, gaps = found.ratios(), found.gaps()
    heads = ["", f"bytes of {first.name}, equal luma", *(wording.size(p.bytes) for p in first.points)]
    lines = []
    for curve in others:
        value = ratios[curve.name]
        cells = ["no common quality" if value is None else f"{value:.2f} times"]
        cells += [
            "" if gap is None else f"{gap:+.2f}".replace("-", wording.MINUS) for gap in gaps[curve.name]
        ]
        tail = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{escape(curve.name)}</th>{tail}</tr>')
    return table(heads, lines)


def pictures(found: Comparison) -> str:
    """The original and, of each curve, the point whose bytes are next to those of our middle one."""
    first = found.curves[0]
    wanted = sorted(p.bytes for p in first.points)[len(first.points) // 2]
    tiles = [_figure(found.original, "original", "")]
    for curve in found.curves:
        near = min(range(len(curve.points)), key=lambda i: abs(math.log(curve.points[i].bytes / wanted)))
        point = curve.points[near]
        words = f"{wording.size(point.bytes)}, luma {point.luma:.2f} dB, SSIM {point.ssim:.4f}"
        tiles.append(_figure(curve.frames[near], curve.name, words))
    return f'<div class="frames">{"".join(tiles)}</div>'


def points_table(curves: Sequence[Curve]) -> str:
    """Everything that was measured."""
    heads = (
        "codec",
        "crf",
        "bytes",
        "bits/pixel",
        "luma dB",
        "RGB dB",
        "SSIM",
        "MS-SSIM",
        "encode",
        "decode",
    )
    lines = []
    for curve in curves:
        for p in curve.points:
            cells = (
                f"{p.crf:g}", f"{p.bytes:,}", f"{p.bpp:.3f}", f"{p.luma:.2f}", f"{p.rgb:.2f}",
                f"{p.ssim:.4f}", "" if p.ms_ssim is None else f"{p.ms_ssim:.4f}",
                wording.seconds(p.encode_s), wording.seconds(p.decode_s),
            )  # fmt: skip
            tail = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            lines.append(f'<tr><th scope="row">{escape(curve.name)}</th>{tail}</tr>')
    return table(heads, lines)


def _charts(curves: Sequence[Curve]) -> str:
    scales = all(p.ms_ssim is not None for curve in curves for p in curve.points)
    other = (
        curves_chart(curves, lambda p: p.ms_ssim, "MS-SSIM of luma")
        if scales
        else curves_chart(curves, lambda p: p.ssim, "SSIM of luma")
    )
    return curves_chart(curves, lambda p: p.luma, "PSNR of luma, dB") + other


def _figure(frame: Frame, name: str, words: str) -> str:
    data = base64.b64encode(_png(frame)).decode()
    caption = f"<b>{escape(name)}</b> {escape(words)}".strip()
    return (
        f'<figure><img alt="{escape(name, quote=True)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _png(frame: Frame) -> bytes:
    """The pixels as they are; large ones made smaller."""
    image, kept = Image.fromarray(frame.rgb().numpy()), io.BytesIO()
    if image.width > WIDEST_PICTURE:
        image = image.resize((WIDEST_PICTURE, max(1, round(image.height * WIDEST_PICTURE / image.width))))
    image.save(kept, "PNG", optimize=True)
    return kept.getvalue()


def _css() -> str:
    light = "".join(f"--c{n}: {colour}; " for n, colour in enumerate(COLOURS))
    dark = "".join(f"--c{n}: {colour}; " for n, colour in enumerate(DARK_COLOURS))
    lines = "".join(f"svg .curve.c{n} {{ stroke: var(--c{n}); }} " for n in range(len(COLOURS)))
    marks = "".join(f"svg .m.c{n} {{ fill: var(--c{n}); }} " for n in range(len(COLOURS)))
    return (
        f":root {{ {light}}} @media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }} "
        f"svg .curve {{ fill: none; stroke-width: 2; }} {lines}{marks}"
        "ul.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; list-style: none; margin: 0 0 10px; "
        "padding: 0; font-size: .92rem; } ul.legend svg { vertical-align: -1px; margin-right: 7px; } "
        ".pair svg.chart + svg.chart { margin-top: 0; } "
        ".frames { display: grid; gap: 16px; grid-template-columns: repeat(3, 1fr); } "
        "figure { margin: 0; } figure img { display: block; width: 100%; height: auto; border-radius: 6px; "
        "image-rendering: pixelated; } "
        "figcaption { font-size: .84rem; color: var(--soft); margin-top: 5px; } "
        "figcaption b { color: var(--ink); font-weight: 600; display: block; } "
        "@media (max-width: 560px) { .frames { grid-template-columns: 1fr 1fr; gap: 10px; } } "
        "@media print { svg .curve, svg .m { print-color-adjust: exact; } }"
    )


_NOTES = {
    "curves": "Bytes are lengths of whole files or streams, without what only names the encoder. Quality is "
    "the mean over frames, from decoded files. Further up and further left is better.",
    "equal": "Bytes of ours over those of each other codec at equal quality, mean over our points that lie "
    "within its curve; below 1 ours is smaller. Then, for the bytes of each of our files, how many dB of "
    "luma PSNR the other codec has more, read between its points. Empty: its curve does not reach there.",
    "frames": "From each codec the file whose size is nearest to our middle one. Pixels are as decoded.",
    "points": "Times are of one run on this machine, encoding and decoding all frames.",
}
