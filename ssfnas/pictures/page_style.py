"""The style sheet of reports: from phones to wide screens, light or dark as the system is."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2733; --muted: #66727f; --grid: #d8dde3; --surface: #fdfefe; --node: #e6ebf1;
  --warning: #b4371f; --page: #f4f6f8; --accent: #2f7fd1; --tint: #eaf2fb; --alert: #fdf0ec;
  --faint: #eef2f6; --shade: #1d273340;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e9ee; --muted: #9aa6b2; --grid: #38424d; --surface: #1b2127; --node: #2b343d;
    --warning: #f08a6c; --page: #12161a; --accent: #66a8ea; --tint: #1d2a38; --alert: #35211b;
    --faint: #232b33; --shade: #00000099;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.5rem 4rem; max-width: 120rem;
  background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.2rem 0 0.3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 0.8rem; }
h3 { font-size: 0.98rem; margin: 1.2rem 0 0.5rem; overflow-wrap: anywhere; }
h4 { font-size: 0.88rem; font-weight: 600; margin: 0 0 0.1rem; }
ul { padding-left: 1.2rem; }
li, footer { overflow-wrap: anywhere; }
p { margin: 0.4rem 0 0.8rem; max-width: 52rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
header .kind { color: var(--muted); margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 0.9rem 0 1.4rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
main { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1.2rem; align-items: start; }
section {
  --back: var(--surface); background: var(--back); border: 1px solid var(--grid);
  border-radius: 10px; padding: 1.1rem 1.25rem; min-width: 0;
}
.alert { --back: var(--alert); border-left: 4px solid var(--warning); }
.alert h2 { color: var(--warning); }
#verdict p { font-size: 1.05rem; margin: 0 0 0.35rem; max-width: 62rem; }
#verdict p:first-of-type { font-weight: 600; }
@media (min-width: 75rem) {
  main { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  section { grid-column: 1 / -1; }
  section.half { grid-column: auto; }
}
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.7rem;
}
.tiles div { background: var(--tint); border-radius: 8px; padding: 0.6rem 0.8rem; }
.tiles dt { color: var(--muted); font-size: 0.82rem; }
.tiles dd {
  margin: 0.1rem 0 0; font-size: 1.05rem; line-height: 1.35; font-weight: 600;
  overflow-wrap: anywhere;
}
dl { margin: 0; }
/* Shades at the sides where more can be scrolled to; covers that move along hide them. */
.scroll, .drawing, pre {
  overflow-x: auto; margin: 0 0 0.9rem;
  background:
    linear-gradient(to right, var(--back) 40%, transparent) left / 2.2rem 100% no-repeat local,
    linear-gradient(to left, var(--back) 40%, transparent) right / 2.2rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 0.9rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 0.9rem 100% no-repeat scroll;
}
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding: 0 0 0.35rem; }
th, td { padding: 0.28rem 0.9rem 0.28rem 0; text-align: left; vertical-align: top; }
tbody tr { border-top: 1px solid var(--grid); }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
thead th { max-width: 12rem; overflow-wrap: break-word; }
tbody th { font-weight: 500; overflow-wrap: break-word; }
.scroll tbody th, .scroll thead th:first-child {
  position: sticky; left: 0; z-index: 1; background: var(--back);
}
table.numbers td, table.numbers thead th:not(:first-child) { text-align: right; }
table.numbers td { white-space: nowrap; }
table.values td { overflow-wrap: anywhere; font-family: ui-monospace, Consolas, monospace; }
table.values td, table.values th { font-size: 0.87rem; }
table.values td { min-width: 7rem; }
td.differs { color: var(--warning); }
table.heat { border-collapse: separate; border-spacing: 2px; font-size: 0.8rem; }
table.heat tbody th { padding: 0 0.6rem 0 0; vertical-align: middle; white-space: nowrap; }
table.heat thead th { padding: 0 0 0.2rem; vertical-align: bottom; }
table.heat thead th:first-child { max-width: 7rem; padding-right: 0.6rem; font-weight: 500; }
table.heat thead span {
  writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; max-height: 11rem;
  overflow: hidden; text-overflow: ellipsis;
}
table.heat td {
  text-align: center; padding: 0.1rem 0.25rem; min-width: 2.1rem; height: 1.6rem;
  vertical-align: middle; border-radius: 3px;
  background: color-mix(in srgb, var(--accent) var(--heat, 0%), var(--faint));
}
td.framed { box-shadow: inset 0 0 0 2px var(--warning); }
figure { margin: 0.4rem 0 1.3rem; min-width: 0; }
figcaption { color: var(--muted); font-size: 0.88rem; max-width: 52rem; }
.drawing svg { display: block; max-width: none; height: auto; }
svg text { font-family: system-ui, "Segoe UI", "Noto Sans", sans-serif !important; }
.cells { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start; }
.cells figure { max-width: 100%; }
.panels {
  display: grid; gap: 1rem 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr));
}
.panels.small {
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 9rem), 1fr)); gap: 0.6rem;
}
.panel { min-width: 0; }
.panel svg { display: block; width: 100%; height: auto; }
.panels + figcaption { margin-top: 0.5rem; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; margin: 0 0 0.4rem; font-size: 0.82rem;
  color: var(--muted); overflow-wrap: anywhere;
}
.legend i {
  display: inline-block; width: 1.1rem; margin-right: 0.35rem; vertical-align: middle;
  border-top: 2px solid currentColor;
}
.legend i.dashed { border-top-style: dashed; }
.legend i.box { width: 0.75rem; height: 0.75rem; border: 0; border-radius: 2px; }
.legend i.box { background: currentColor; }
.bars { list-style: none; margin: 0 0 0.9rem; padding: 0; font-size: 0.88rem; }
.bars.many-rows { columns: 22rem; column-gap: 2rem; }
.bars.many-rows li { grid-template-columns: minmax(3rem, 7rem) minmax(0, 1fr); }
.bars li {
  display: grid; grid-template-columns: minmax(4.5rem, 11rem) minmax(0, 1fr); gap: 0 0.7rem;
  align-items: center; break-inside: avoid; padding: 0.1rem 0;
}
.bars.sized li { grid-template-columns: minmax(4.5rem, 11rem) 4.2rem minmax(0, 1fr); }
.bars.many-rows.sized li { grid-template-columns: minmax(3rem, 7rem) 3.4rem minmax(0, 1fr); }
.bars .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars .size { text-align: right; color: var(--muted); font-variant-numeric: tabular-nums; }
.bars .head { color: var(--muted); font-size: 0.82rem; line-height: 1.2; align-items: end; }
.bars .values > span { display: grid; grid-template-columns: 1fr 3.2rem; align-items: center; }
.bars b { font-weight: 500; text-align: right; font-variant-numeric: tabular-nums; }
.bars .head b { font-weight: 400; }
.track { position: relative; height: 0.72rem; background: var(--faint); border-radius: 3px; }
.track i {
  display: block; height: 100%; min-width: 2px; border-radius: 3px; background: var(--accent);
}
.chance .track::after {
  content: ""; position: absolute; top: -0.15rem; bottom: -0.15rem; left: var(--chance);
  border-left: 2px solid var(--ink);
}
.beside {
  display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
}
.beside > * { min-width: 0; }
.gallery { display: flex; flex-wrap: wrap; gap: 0.9rem 1rem; margin: 0.4rem 0 1.1rem; }
.gallery figure { margin: 0; min-width: 6.4rem; max-width: 100%; }
.gallery .images { display: flex; flex-wrap: wrap; gap: 3px; }
.gallery img { display: block; max-width: 100%; height: auto; border-radius: 3px; }
.gallery img.enlarged { image-rendering: pixelated; }
.gallery figcaption { margin-top: 0.2rem; line-height: 1.35; width: min-content; min-width: 100%; }
.gallery figcaption span { display: block; overflow-wrap: anywhere; }
.gallery b { color: var(--ink); font-weight: 600; }
code, pre { font-family: ui-monospace, Consolas, monospace; font-size: 0.87rem; }
code { background: var(--node); border-radius: 4px; padding: 0.08rem 0.3rem; }
footer code { overflow-wrap: anywhere; }
pre { --back: var(--node); border-radius: 6px; padding: 0.7rem 0.9rem; margin: 0.3rem 0 0.9rem; }
pre { background-color: var(--node); }
summary { cursor: pointer; color: var(--accent); margin: 0.3rem 0 0.6rem; }
footer { color: var(--muted); font-size: 0.85rem; margin-top: 1.2rem; }
@media (max-width: 40rem) {
  body { padding: 1rem 0.75rem 3rem; }
  section { padding: 0.9rem 0.85rem; }
  .scroll tbody th { max-width: 9rem; }
  .gallery { gap: 0.9rem 0.7rem; }
  table.heat tbody th { max-width: 6.5rem; min-width: 0; }
  table.heat tbody th { overflow: hidden; text-overflow: ellipsis; }
  .bars.sized li { grid-template-columns: minmax(4rem, 6.5rem) 3.6rem minmax(0, 1fr); }
}
@media print {
  body { background: none; } nav { display: none; } main { display: block; }
  section { break-inside: avoid-page; margin-bottom: 1.2rem; }
}
"""
