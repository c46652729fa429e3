"""The style sheet of reports: one column, light or dark as the reader's system is, fit to print."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2733; --muted: #66727f; --grid: #d8dde3; --surface: #fdfefe; --node: #e6ebf1;
  --warning: #b4371f; --page: #f4f6f8; --accent: #2f7fd1; --tint: #eaf2fb; --alert: #fdf0ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e9ee; --muted: #9aa6b2; --grid: #38424d; --surface: #1b2127; --node: #2b343d;
    --warning: #f08a6c; --page: #12161a; --accent: #66a8ea; --tint: #1d2a38; --alert: #35211b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 74rem;
  background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.2rem 0 0.3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 0.8rem; }
h3 { font-size: 0.98rem; margin: 1.2rem 0 0.5rem; }
p { margin: 0.4rem 0 0.8rem; max-width: 52rem; }
a { color: var(--accent); }
header .kind { color: var(--muted); margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 0.9rem 0 1.4rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section {
  background: var(--surface); border: 1px solid var(--grid); border-radius: 10px;
  padding: 1.1rem 1.25rem; margin: 0 0 1.2rem;
}
.alert { background: var(--alert); border-left: 4px solid var(--warning); }
.alert h2 { color: var(--warning); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 0.7rem;
}
.tiles div { background: var(--tint); border-radius: 8px; padding: 0.6rem 0.8rem; }
.tiles dt { color: var(--muted); font-size: 0.82rem; }
.tiles dd {
  margin: 0.1rem 0 0; font-size: 1.05rem; line-height: 1.35; font-weight: 600;
  overflow-wrap: anywhere;
}
dl { margin: 0; }
.scroll { overflow-x: auto; margin: 0 0 0.9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding: 0 0 0.35rem; }
th, td { padding: 0.28rem 0.9rem 0.28rem 0; text-align: left; vertical-align: top; }
tbody tr { border-top: 1px solid var(--grid); }
thead th { color: var(--muted); font-weight: 600; }
tbody th { font-weight: 500; }
table.numbers td, table.numbers thead th:not(:first-child) { text-align: right; }
table.numbers td, table.numbers th { white-space: nowrap; }
table.values td { overflow-wrap: anywhere; font-family: ui-monospace, Consolas, monospace; }
table.values td, table.values th { font-size: 0.87rem; }
td.differs { color: var(--warning); }
figure { margin: 0.4rem 0 1.3rem; }
figcaption { color: var(--muted); font-size: 0.88rem; max-width: 52rem; }
.drawing { overflow-x: auto; }
.drawing svg { display: block; max-width: 100%; height: auto; }
.wide .drawing svg { max-width: none; }
.drawing svg text { font-family: system-ui, "Segoe UI", "Noto Sans", sans-serif !important; }
.beside {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem;
}
.gallery { display: flex; flex-wrap: wrap; gap: 0.9rem 1rem; margin: 0.4rem 0 1.1rem; }
.gallery figure { margin: 0; min-width: 6rem; max-width: 100%; }
.gallery .images { display: flex; flex-wrap: wrap; gap: 3px; }
.gallery img { display: block; max-width: 100%; height: auto; border-radius: 3px; }
.gallery img.enlarged { image-rendering: pixelated; }
.gallery figcaption { margin-top: 0.2rem; line-height: 1.35; width: min-content; min-width: 100%; }
.gallery figcaption span { display: block; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, Consolas, monospace; font-size: 0.87rem; }
code { background: var(--node); border-radius: 4px; padding: 0.08rem 0.3rem; }
pre {
  background: var(--node); border-radius: 6px; padding: 0.7rem 0.9rem; overflow-x: auto;
  margin: 0.3rem 0 0.9rem;
}
summary { cursor: pointer; color: var(--accent); margin: 0.3rem 0 0.6rem; }
footer { color: var(--muted); font-size: 0.85rem; }
@media print {
  body { background: none; } section { break-inside: avoid-page; } nav { display: none; }
}
"""
