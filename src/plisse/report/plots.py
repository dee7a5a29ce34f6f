"""Charts as SVG text, for a page that may load nothing. Colours come from the page's style sheet.

Every function returns one `<svg>` element. Text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from plisse.compress.result import FrontierPoint
from plisse.report import wording
from plisse.report.axes import Axis, axis
from plisse.train.evaluate import Difference, Evaluation

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 30, 48
INDENT, LABEL = 70, 128
DECADES_FOR_LOG = 1.3


@dataclass(frozen=True)
class Span:
    """An interval, the value within it, and how the value is written."""

    low: float
    value: float
    high: float
    words: str


def bar(share: float, label: str, kind: str = "bar") -> str:
    """A horizontal bar as wide as its cell, `share` of it (0 to 1) filled; `label` is for screen readers."""
    filled = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<svg class="{kind}" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}"><rect class="track" width="100" height="8"/>'
        f'<rect class="fill" width="{filled:.2f}" height="8"/></svg>'
    )


def frontier(points: Sequence[FrontierPoint]) -> str:
    """Predicted bytes (logarithmic) against divergence; a line joins what nothing beats, and a ring marks
    the chosen point. Without points: a picture that says so."""
    shown = [p for p in points if p.bytes > 0 and math.isfinite(p.bytes) and math.isfinite(p.divergence)]
    if not shown:
        return notice("No search was run: the steps were given, not chosen.")
    x = axis([p.bytes for p in shown], LEFT, WIDTH - RIGHT, log=True)
    y = _divergence_axis([p.divergence for p in shown])
    ordered = sorted(shown, key=lambda p: (p.bytes, p.divergence))
    best = unbeaten(ordered)
    line = " ".join(f"{x(p.bytes):.1f},{y(p.divergence):.1f}" for p in best)
    body = [
        grid(x, y, wording.round_size, "{:g}".format),
        titles("predicted file size", "divergence from the original"),
        f'<polyline class="line" points="{line}"/>',
        *(_dot(p, x(p.bytes), y(p.divergence), p in best) for p in ordered if not p.chosen),
        *(_chosen(p, x(p.bytes), y(p.divergence)) for p in ordered if p.chosen),
    ]
    return chart("".join(body), f"Frontier of {len(shown)} points: predicted bytes against divergence")


def unbeaten(ordered: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """The points, given by rising bytes, that no smaller one equals in divergence."""
    best: list[FrontierPoint] = []
    for point in ordered:
        if not best or point.divergence < best[-1].divergence:
            best.append(point)
    return best


def scores(before: Evaluation, after: Evaluation) -> str:
    """Both scores with their 95 % intervals on one axis."""
    unit = before.unit
    x = axis([before.low, before.high, after.low, after.high], INDENT, WIDTH - RIGHT, log=False, margin=0.12)
    body = _x_grid(
        x, 122, lambda tick: f"{100 * tick:g}{wording.SPACE}%" if unit == "points" else f"{tick:g}"
    )
    for found, name, at in ((before, "before", 48), (after, "after", 92)):
        span = Span(found.low, found.score, found.high, wording.score(found.score, unit))
        body += _whisker(span, name, name, x, at)
    body += _text(0, 12, f"{before.name}, 95 % interval", "axis")
    label = f"{before.name} before {wording.score(before.score, unit)}, after "
    return chart(body, label + wording.score(after.score, unit), 146)


def differences(found: Difference, unit: str) -> str:
    """The paired difference with its 95 % interval, and the line where nothing changes."""
    ends = [found.low, found.high, 0.0] if found.low < found.high else [-0.01, 0.01, found.value]
    x = axis(ends, INDENT, WIDTH - RIGHT, log=False, margin=0.12)
    body = _x_grid(x, 82, lambda tick: wording.tick(100 * tick if unit == "points" else tick))
    body += f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="24" y2="82"/>'
    words = wording.signed(found.value, unit)
    body += _whisker(Span(found.low, found.value, found.high, words), "after", "change", x, 56)
    title = f"after minus before on the same samples, {unit or 'score'}"
    return chart(body + _text(0, 12, title, "axis"), f"difference {words} {unit}", 104)


def notice(words: str) -> str:
    """An empty chart with one line of text."""
    frame = f'<rect class="empty" x="1" y="1" width="{WIDTH - 2}" height="118" rx="8"/>'
    return chart(frame + _text(WIDTH / 2, 64, words, "axis middle"), words, 120)


def chart(body: str, label: str, height: int = HEIGHT) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}"'
    return f'<svg class="chart" {size} role="img" aria-label="{escape(label)}">{body}</svg>'


def grid(x: Axis, y: Axis, x_text: Callable[[float], str], y_text: Callable[[float], str]) -> str:
    """Grid lines and tick labels of both axes."""
    floor = HEIGHT - BOTTOM
    lines = [_x_tick(x(tick), TOP, floor, x_text(tick)) for tick in _few(x.ticks())]
    for tick in y.ticks():
        at = y(tick)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        lines.append(_text(LEFT - 8, at + 4, y_text(tick), "tick end"))
    return "".join(lines)


def titles(x_title: str, y_title: str) -> str:
    """Names of both axes; that of y stands above its labels, so that nobody has to tilt the head."""
    below = _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "axis middle")
    return below + _text(0, 12, y_title, "axis")


def _divergence_axis(values: Sequence[float]) -> Axis:
    wide = min(values) > 0 and math.log10(max(values) / min(values)) > DECADES_FOR_LOG
    found = axis(values, HEIGHT - BOTTOM, TOP, log=wide)
    if wide or min(values) < 0:
        return found
    return Axis(0.0, found.high, found.start, found.stop)


def _dot(point: FrontierPoint, x: float, y: float, best: bool) -> str:
    kind = "dot best" if best else "dot"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{_hover(point)}</circle>'


def _chosen(point: FrontierPoint, x: float, y: float) -> str:
    """A ring, with its label where a falling frontier leaves room: above right, or below left."""
    room = x < WIDTH - RIGHT - LABEL
    at, up, side = (x + 13, y - 9, "start") if room else (x - 12, y + 18, "end")
    return (
        f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
        f'<circle class="dot chosen" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{_hover(point)}</circle>'
        + _text(at, max(up, TOP + 10), f"chosen, {wording.size(point.bytes)}", f"mark {side}")
    )


def _hover(point: FrontierPoint) -> str:
    words = f"{wording.size(point.bytes)}, divergence {wording.figures(point.divergence)}"
    return f"<title>{escape(words)}</title>"


def _whisker(span: Span, kind: str, name: str, x: Axis, y: float) -> str:
    low, high, at = x(span.low), x(span.high), x(span.value)
    return (
        _text(0, y + 4, name, "label")
        + f'<line class="whisker {kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
        + f'<circle class="score {kind}" cx="{at:.1f}" cy="{y}" r="6"/>'
        + _text(at, y - 12, span.words, "mark middle")
    )


def _x_grid(x: Axis, floor: float, words: Callable[[float], str]) -> str:
    return "".join(_x_tick(x(tick), 24, floor, words(tick)) for tick in _few(x.ticks()))


def _x_tick(x: float, top: float, floor: float, words: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{floor}"/>'
    return line + _text(x, floor + 18, words, "tick middle")


def _few(ticks: list[float]) -> list[float]:
    return ticks[:: math.ceil(len(ticks) / 6)] if ticks else []


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
