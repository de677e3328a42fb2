"""The style sheet of every page: calm colours, light and dark, 380 px to 1400 px, paper."""

from __future__ import annotations

STYLE = """
:root {
  --page: #f6f7f9; --panel: #ffffff; --ink: #18212b; --muted: #566472; --rule: #dde3e9; --faint: #eef1f4;
  --accent: #1d6390; --soft: #d6e6f1; --good: #17704c; --bad: #a93826; --warn: #7c5800; --warn-back: #fdf4dc;
  --s0: #1d6390; --s1: #b4551f; --s2: #2d7d58; --s3: #7a4c9c; --s4: #8a6d00; --s5: #a43a62;
  --shadow: 0 1px 2px rgb(24 33 43 / 7%);
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #11161b; --panel: #181f26; --ink: #e4e9ee; --muted: #9dabb8; --rule: #2d3741; --faint: #212a32;
  --accent: #74b8e4; --soft: #24435a; --good: #62cb9b; --bad: #f39282; --warn: #e5b750; --warn-back: #2e2714;
  --s0: #74b8e4; --s1: #f0a06a; --s2: #6fcf9f; --s3: #c4a0e6; --s4: #dcc25a; --s5: #f093b5;
  --shadow: none;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
main, header, nav { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 36px; }
h1 { font-size: 32px; line-height: 1.15; letter-spacing: -.015em; margin: 2px 0 10px; overflow-wrap: anywhere; }
h2 { font-size: 21px; letter-spacing: -.01em; margin: 0 0 4px; }
h3 { font-size: 15.5px; margin: 0 0 6px; }
p { margin: 0 0 10px; max-width: 78ch; }
a { color: var(--accent); }
code, .mono { font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
.eyebrow { color: var(--muted); font-size: 12.5px; letter-spacing: .07em; text-transform: uppercase; margin: 0; }
.lead { font-size: 17px; max-width: 70ch; }
.muted { color: var(--muted); } .small { font-size: 13px; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.good, .bad, .part { font-weight: 600; } .part { color: var(--warn); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 10px; font-size: 14px; }
nav a { text-decoration: none; padding: 2px 0; } nav a:hover { text-decoration: underline; }
section { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px; box-shadow: var(--shadow); padding: 22px 24px; margin: 18px 0; }
section > .about { color: var(--muted); margin-bottom: 16px; }
.notes { background: var(--warn-back); border-left: 4px solid var(--warn); border-radius: 6px; padding: 10px 16px; margin: 18px 0; }
.notes ul { margin: 4px 0; padding-left: 20px; }
footer { color: var(--muted); font-size: 13px; padding: 4px 0 40px; }

.facts { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 14px 0 4px; }
.facts div { min-width: 0; } .facts dt { color: var(--muted); font-size: 12.5px; } .facts dd { margin: 0; font-size: 17px; font-weight: 600; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 22px 28px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 18px; }
.tile { border: 1px solid var(--rule); border-radius: 8px; padding: 14px 16px; min-width: 0; }
.tile dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; margin: 8px 0 0; font-size: 14px; }
.tile dt { color: var(--muted); } .tile dd { margin: 0; min-width: 0; }
.chip { display: inline-block; border: 1px solid var(--rule); border-radius: 99px; padding: 0 9px; font-size: 12.5px; white-space: nowrap; margin: 0 4px 3px 0; }

caption span { display: inline-block; max-width: min(100%, calc(100vw - 64px)); position: sticky; left: 0; }
.scroll { overflow-x: auto; margin: 0 0 4px; background: linear-gradient(to right, var(--panel) 40%, transparent) 0 0 / 40px 100% local no-repeat,
  linear-gradient(to left, var(--panel) 40%, transparent) 100% 0 / 40px 100% local no-repeat,
  linear-gradient(to right, var(--rule), transparent) 0 0 / 14px 100% scroll no-repeat,
  linear-gradient(to left, var(--rule), transparent) 100% 0 / 14px 100% scroll no-repeat; }
 .scroll + .scroll { margin-top: 26px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); font-size: 13px; padding-bottom: 8px; caption-side: top; }
th, td { padding: 7px 16px 7px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--muted); font-size: 12.5px; white-space: nowrap; vertical-align: bottom; } tbody th { color: var(--ink); font-size: 14px; vertical-align: top; }
tr:last-child > * { border-bottom: 0; } tr > :last-child { padding-right: 0; }
.num { text-align: right; white-space: nowrap; } .nowrap { white-space: nowrap; }

.bars { display: grid; gap: 4px; margin: 6px 0 14px; }
.bar-row { display: grid; grid-template-columns: 265px minmax(0, 1fr) 130px; gap: 0 18px; align-items: center; padding: 7px 0; border-bottom: 1px solid var(--rule); }
.bar-row:last-child, .bar-row:has(+ .ruler) { border-bottom: 0; } .ruler { padding: 0; }
.bar-name b { display: block; } .bar-name span, .bar-value span { color: var(--muted); font-size: 13px; }
.bar-value b { font-size: 22px; font-variant-numeric: tabular-nums; display: block; line-height: 1.15; }
.bar-row p { grid-column: 2 / 4; font-size: 13px; margin: 2px 0 0; max-width: none; color: var(--muted); } .bar-row p > span { display: inline-block; margin-right: 14px; }
.bar-row p > .verdict { margin-right: 0; }
.bar { display: block; width: 100%; height: 36px; overflow: visible; }
.bar .grid { stroke: var(--rule); } .bar .bar-fill { fill: var(--accent); opacity: .82; } .bar .whisker { stroke: var(--ink); stroke-width: 1.6; }
.bar .base { stroke: var(--ink); stroke-width: 1.4; } .mark { fill: var(--panel); stroke: var(--ink); stroke-width: 1.4; overflow: visible; }
.ruler-svg { height: 14px; } .bar text { fill: var(--muted); font-size: 11.5px; }
.key { width: 11px; height: 11px; vertical-align: -1px; overflow: visible; margin-right: 4px; }
.share { display: grid; grid-template-columns: minmax(80px, 34%) 1fr 92px; gap: 10px; align-items: center; font-size: 13.5px; padding: 1px 0; }
.share i { display: block; height: 9px; background: var(--accent); opacity: .75; border-radius: 2px; min-width: 1px; }
.share .num { color: var(--muted); font-variant-numeric: tabular-nums; } .share .rest { color: var(--muted); }

.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 266px), 1fr)); gap: 14px 22px; margin: 6px 0 0; align-items: end; }
.curves + h3, .stage + .stage { margin-top: 26px; padding-top: 18px; border-top: 1px solid var(--rule); }
figure { margin: 0; min-width: 0; } .curve svg[viewBox] { display: block; width: 100%; max-width: 400px; height: auto; }
.curve figcaption { display: flex; flex-wrap: wrap; gap: 0 12px; justify-content: space-between; font-size: 13.5px; max-width: 400px; }
.curve text { font-size: 11px; fill: var(--muted); font-variant-numeric: tabular-nums; } .curve p { margin: 0; }
.curve .grid { stroke: var(--rule); } .curve .axis { stroke: var(--muted); }
.curve polyline, .legend line { fill: none; stroke-width: 1.8; stroke-linejoin: round; pointer-events: none; stroke: currentColor; }
.curve .raw { stroke-width: 1; opacity: .32; } .curve .joined { stroke-width: 1.2; opacity: .65; } .curve circle { fill: currentColor; }
.curve .area { fill: currentColor; opacity: .16; stroke: none; }
.hover { fill: transparent; } .hover:hover { fill: var(--ink); fill-opacity: .07; }
.legend { display: flex; flex-wrap: wrap; gap: 0 12px; color: var(--muted); font-size: 12.5px; } .legend b { color: var(--ink); font-variant-numeric: tabular-nums; }
.legend svg { vertical-align: -1px; margin-right: 4px; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.s1 .line { stroke-dasharray: 7 3; } .s2 .line { stroke-dasharray: 2 3; } .s3 .line { stroke-dasharray: 9 3 2 3; } .s4 .line { stroke-dasharray: 4 2; }
.curve .marks.s1 polyline, .legend .marks line { stroke-dasharray: none; }

.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 18px; align-items: start; margin-top: 14px; }
.card { border: 1px solid var(--rule); border-radius: 8px; overflow: hidden; background: var(--panel); min-width: 0; }
.card > .body { padding: 12px 14px; } .card .body > :last-child { margin-bottom: 0; }
.picture { position: relative; background: #000; display: flex; justify-content: center; }
.picture .canvas { position: relative; line-height: 0; width: 100%; } .picture.upright .canvas { width: auto; max-width: 100%; }
.picture img { width: 100%; height: auto; display: block; } .picture.upright img { width: auto; height: 340px; max-width: 100%; }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.picture rect { fill: transparent; vector-effect: non-scaling-stroke; stroke-width: 2; }
.picture .halo { stroke: #000; stroke-opacity: .55; stroke-width: 4.5; }
.b-truth { stroke: #3fe0d0; } .b-answer { stroke: #ffb454; stroke-dasharray: 6 4; }
.b0 { stroke: #3fe0d0; } .b1 { stroke: #ffb454; stroke-dasharray: 9 3; } .b2 { stroke: #ff8ad1; stroke-dasharray: 3 2; } .b3 { stroke: #b9f24d; stroke-dasharray: 10 3 2 3; }
.b4 { stroke: #b6a4ff; stroke-dasharray: 8 2; } .b5 { stroke: #ff7d66; stroke-dasharray: 3 2; }
.box-key { display: inline-flex; align-items: center; gap: 6px; margin-right: 16px; font-size: 13.5px; }
.box-key svg { width: 26px; height: 16px; background: #222b33; border-radius: 3px; } .box-key rect { fill: none; stroke-width: 2; }
.qa { border-top: 1px solid var(--rule); padding: 9px 0 9px; } .card .body > p:first-child { margin-bottom: 8px; } .qa:last-child { padding-bottom: 0; }
.qa p { margin: 0; } .qa .q { margin-bottom: 4px; } .qa dl { display: grid; grid-template-columns: 62px 1fr; gap: 1px 8px; margin: 0; font-size: 14px; }
.qa dd > details { margin-top: 0; } .qa dt { color: var(--muted); } .qa dd { margin: 0; min-width: 0; overflow-wrap: anywhere; white-space: pre-line; }
.rewards { margin: 5px 0 0; } .verdicts { float: right; font-size: 13px; margin-left: 10px; }
details { font-size: 13.5px; margin-top: 5px; } summary { cursor: pointer; color: var(--muted); } details > :not(summary) { margin: 4px 0; } section > details > summary { padding: 8px 0; font-size: 14px; }
.report-text { white-space: pre-line; overflow-wrap: anywhere; }
.filter { font-size: 14px; margin: 4px 0 0; display: block; }
section:has(#only-wrong:checked) .card.right, section:has(#only-wrong:checked) .qa.right { display: none; }
a:focus-visible, summary:focus-visible, input:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

@media (max-width: 640px) {
  main, header, nav { padding: 0 14px; } header { padding-top: 22px; } section { padding: 16px 14px; margin: 12px 0; } h1 { font-size: 26px; }
  th, td { padding-right: 14px; } table, tbody th { font-size: 13px; }
  .facts { gap: 8px 22px; } .facts dd { font-size: 15.5px; }
  .bar-row { grid-template-columns: minmax(0, 1fr) auto; } .bar-row .bar-track { grid-column: 1 / 3; grid-row: 2; } .ruler span { display: none; } .bar-row p { grid-column: 1 / 3; }
  .bar-value { text-align: right; } .tile dl { grid-template-columns: 1fr; } .tile dd { margin-bottom: 4px; }
}
@media print {
  :root { --page: #fff; --shadow: none; } body { font-size: 11.5px; } nav, .filter { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  section { border: 0; padding: 0; margin: 14px 0; } .card, .curve, .tile, .bar-row, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .picture.upright .canvas, .picture.upright img { width: 100%; height: auto; }
  .gallery { grid-template-columns: repeat(3, 1fr); } .curves { grid-template-columns: repeat(4, 1fr); } .scroll { overflow: visible; }
}
"""
