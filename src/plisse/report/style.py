"""The style sheet of the report: light and dark, readable on a phone and on paper."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --edge: #dfe3e8; --ink: #17202a; --soft: #5b6875; --grid: #e6e9ed;
  --main: #1f5fbf; --faint: #aebfd6; --track: #edf0f4; --mark: #c2410c;
  --good: #137a45; --bad: #b42318; --good-wash: #e6f4ec; --bad-wash: #fdecea; --flat-wash: #eef1f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f141a; --card: #171e26; --edge: #2a343f; --ink: #e8edf2; --soft: #9aa8b6; --grid: #25303b;
    --main: #6ea8fe; --faint: #4a5c74; --track: #222c36; --mark: #fb923c;
    --good: #5bd08f; --bad: #ff8f85; --good-wash: #14301f; --bad-wash: #3a1a18; --flat-wash: #222c36;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 56px; }
header p { margin: 2px 0 0; color: var(--soft); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 4px; }
.note { color: var(--soft); font-size: .88rem; margin: 0 0 14px; max-width: 68ch; }
section, .tile {
  background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 20px 22px;
}
section { margin-top: 18px; min-width: 0; }
.tiles { display: grid; gap: 14px; margin: 22px 0 0; grid-template-columns: 1.2fr 1fr 1fr 1fr; }
.tile .name { color: var(--soft); font-size: .84rem; }
.tile .value { font-size: 1.5rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile .more { color: var(--soft); font-size: .84rem; }
.tile.lead .value { font-size: 1.75rem; line-height: 1.2; white-space: nowrap; color: var(--main); }
.pair { display: grid; gap: 18px; grid-template-columns: 1fr 1fr; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { text-align: right; padding: 8px 10px; border-bottom: 1px solid var(--edge); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 550; font-size: .82rem; white-space: nowrap; }
tbody th { font-weight: 550; }
tbody tr:last-child > * { border-bottom: 0; }
td.text { text-align: left; }
.wide { min-width: 14rem; overflow-wrap: break-word; }
.shape { color: var(--soft); font-weight: 400; font-size: .82rem; white-space: nowrap; }
.flag {
  display: inline-block; border-radius: 99px; padding: 0 9px; font-size: .78rem; font-weight: 600;
  white-space: nowrap; background: var(--flat-wash); color: var(--soft);
}
.flag.bad { background: var(--bad-wash); color: var(--bad); }
.flag.good { background: var(--good-wash); color: var(--good); }
svg.bar { display: block; width: 100%; height: 7px; margin-top: 5px; border-radius: 4px; }
svg.bar .track { fill: var(--track); } svg.bar .fill { fill: var(--main); }
svg.chart { display: block; width: 100%; height: auto; max-width: 620px; margin: 0 auto; overflow: visible; }
svg.chart + svg.chart { margin-top: 16px; }
svg text { font-size: 12.5px; fill: var(--ink); }
svg .tick, svg .axis { fill: var(--soft); }
svg .mark { font-weight: 600; }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .line { fill: none; stroke: var(--faint); stroke-width: 1.5; }
svg .dot { fill: var(--faint); } svg .dot.best { fill: var(--main); } svg .dot.chosen { fill: var(--mark); }
svg .ring { fill: none; stroke: var(--mark); stroke-width: 2; }
svg .whisker { stroke-width: 3; stroke-linecap: round; stroke: var(--main); }
svg .whisker.before { stroke: var(--faint); }
svg .score { fill: var(--main); stroke: var(--card); stroke-width: 2; }
svg .score.before { fill: var(--soft); }
svg .zero { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 3 3; }
svg .empty { fill: none; stroke: var(--edge); stroke-dasharray: 5 5; }
img.sheet { display: block; width: 100%; height: auto; image-rendering: pixelated; }
ul.lines { margin: 0; padding-left: 1.2em; font-size: .93rem; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--main); font-size: .9rem; padding: 8px 0; }
pre {
  overflow: auto; max-height: 32rem; background: var(--page); border: 1px solid var(--edge);
  border-radius: 8px; padding: 14px; margin: 6px 0 0;
  font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
footer { color: var(--soft); font-size: .82rem; margin-top: 22px; }
@media (max-width: 860px) {
  .tiles { grid-template-columns: 1fr 1fr; }
  .pair { grid-template-columns: 1fr; gap: 0; }
}
@media (max-width: 560px) {
  main { padding: 20px 12px 40px; } section, .tile { padding: 15px 14px; border-radius: 10px; }
  .tiles { gap: 10px; } .tile .value { font-size: 1.15rem; } .tile.lead .value { font-size: 1.5rem; }
  table { font-size: .86rem; } thead th { white-space: normal; }
  th, td { padding: 7px 7px; } .wide { min-width: 10.5rem; }
}
@media print {
  :root { color-scheme: light; } body { background: none; } section, .tile { break-inside: avoid; }
}
"""
