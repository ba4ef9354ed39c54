"""How a report looks: on a phone, on paper, by day and by night."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1c1f24; --faint: #9aa0a8; --rule: #dfe2e6;
  --main: #0b63b0; --other: #c2571a; --reference: #5b6470;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171b; --ink: #e6e8eb; --faint: #717a86; --rule: #30353c;
    --main: #62b0f2; --other: #f2935c; --reference: #a5afbb;
  }
}
* { box-sizing: border-box; }
body {
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  background: var(--paper); color: var(--ink);
  max-width: 68rem; margin: 0 auto; padding: 1rem 1rem 3rem;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .6rem;
  border-top: 2px solid var(--rule); overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: var(--reference); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; color: var(--reference); padding: .2rem 0; white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; font-weight: 400;
  border-bottom: 1px solid var(--rule); }
thead th { color: var(--reference); vertical-align: bottom; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures { display: grid; gap: 1rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; }
svg { width: 100%; height: auto; display: block; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
@media (max-width: 30rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
@media print {
  :root {
    --paper: #fff; --ink: #000; --faint: #888; --rule: #ccc;
    --main: #0b63b0; --other: #c2571a; --reference: #444;
  }
  body { font-size: 10pt; max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .wide { overflow: visible; }
}
"""
