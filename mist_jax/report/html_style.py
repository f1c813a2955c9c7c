"""The style sheet of the HTML report: phone, desktop and paper."""

CSS = """
:root { --ink: #1a1a1a; --soft: #5a5a5a; --line: #d8d8d8; --paper: #ffffff; --tint: #f3f6f9; --blue: #0072B2;
  --good: #00694d; --bad: #a33b00; color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5; overflow-wrap: anywhere;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; font-size: 16px; }
main { max-width: 1080px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.15rem; margin: 36px 0 10px; padding-bottom: 4px; border-bottom: 2px solid var(--blue); }
h3 { font-size: 1rem; margin: 20px 0 6px; }
p { margin: 6px 0; max-width: 75ch; }
.soft { color: var(--soft); font-size: 0.875rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 14px 0; }
.card { background: var(--tint); border-left: 3px solid var(--blue); padding: 8px 12px; }
.card b { display: block; font-size: 1.3rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card span { font-size: 0.8125rem; color: var(--soft); }
.met { color: var(--good); font-weight: 700; } .missed { color: var(--bad); font-weight: 700; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; margin: 8px 0; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.n { white-space: normal; }
td.k { overflow-wrap: normal; }
.bar { display: block; height: 10px; background: var(--blue); min-width: 1px; }
td.b { width: 34%; min-width: 60px; padding-top: 11px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 20px; }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; max-width: 560px; height: auto; display: block; }
figcaption { font-size: 0.8125rem; color: var(--soft); margin-top: 4px; }
pre { background: var(--tint); padding: 12px; font-size: 0.75rem; line-height: 1.45; overflow-x: auto;
  white-space: pre-wrap; margin: 8px 0; }
details > summary { cursor: pointer; font-weight: 600; padding: 6px 0; }
footer { margin-top: 40px; padding-top: 8px; border-top: 1px solid var(--line); }
@media (max-width: 560px) {
  .sources, .sources tbody, .sources tr, .sources td { display: block; width: 100%; }
  .sources thead { display: none; }
  .sources tr { border-bottom: 1px solid var(--line); padding: 6px 0; }
  .sources td { border: 0; padding: 0; text-align: left; }
  .sources td:first-child { font-weight: 600; }
  .stack, .stack tbody, .stack tr, .stack td { display: block; width: 100%; }
  .stack thead { display: none; }
  .stack tr { border-bottom: 1px solid var(--line); padding: 6px 0; }
  .stack td { border: 0; padding: 0; }
  .stack td:first-child { font-weight: 600; }
  .stack td.n { display: flex; justify-content: space-between; gap: 12px; white-space: normal; }
  .stack td.n::before { content: attr(data-label); color: var(--soft); text-align: left; }
  td.b { width: 20%; min-width: 40px; }
}
@media print {
  @page { margin: 15mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  tr, .card, table.bars { break-inside: avoid; }
  .wide { overflow: visible; }
  .figures { grid-template-columns: 1fr 1fr; gap: 12px; }
  pre { white-space: pre-wrap; font-size: 7pt; columns: 2; }
  summary { display: none; }
  .card, .bar { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
