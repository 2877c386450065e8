"""Draws a workflow as an SVG sequence diagram that reads on light and dark pages, without scripts or fonts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from diagrams.draw import TITLES, summary
from diagrams.lanes import REFUSALS, is_command
from diagrams.model import Tell, lanes, play
from orderflow.contracts import Workflow

_GAP: Final = 190
_SIDE: Final = 90
_ROW: Final = 34
_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; text-anchor: middle; }
  .title { font-weight: 600; text-anchor: start; } .name { font-weight: 600; }
  .outcome { font-style: italic; text-anchor: start; }
  .box { fill: #eaeef2; stroke: #8c959f; } .life { stroke: #afb8c1; stroke-dasharray: 2 4; }
  .command { stroke: #0969da; stroke-width: 2; } .event { stroke: #1a7f37; stroke-width: 1.5; stroke-dasharray: 6 4; }
  .refusal { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 6 4; }
  .noted { stroke-opacity: .55; } path.head { stroke-dasharray: none; fill: none; }
  .label { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .box { fill: #21262d; stroke: #6e7681; } .life { stroke: #484f58; }
    .command { stroke: #58a6ff; } .event { stroke: #3fb950; } .refusal { stroke: #ff7b72; }
    .label { stroke: #0d1117; }
  }
"""


def svg(workflow: Workflow, outcomes: Sequence[str], marker: str) -> str:
    """The drawing; `marker` is kept in it as a comment, so that the drawing can be renewed later."""
    names = lanes(workflow)
    at = {name: _SIDE + i * _GAP for i, name in enumerate(names)}
    width = 2 * _SIDE + (len(names) - 1) * _GAP
    body: list[str] = []
    y = 30
    body.append(f'<text class="title" x="12" y="{y}">{escape(summary(workflow))}</text>')
    for outcome in outcomes:
        told = play(workflow, outcome)
        y += 34
        body.append(f'<text class="outcome" x="12" y="{y}">{escape(TITLES[outcome])}</text>')
        y += 14
        top, y = y, y + 26
        body += [
            f'<line class="life" x1="{x}" y1="{top + 26}" x2="{x}" y2="{y + _ROW * len(told) + 16}"/>'
            for x in at.values()
        ]
        for name, x in at.items():
            body.append(f'<rect class="box" x="{x - 62}" y="{top}" width="124" height="26" rx="5"/>')
            body.append(f'<text class="name" x="{x}" y="{top + 18}">{escape(name)}</text>')
        for tell in told:
            y += _ROW
            body += _message(tell, at, y)
        y += 16
    height = y + 16
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join(
        [head, marker, f"<title>{escape(summary(workflow))}</title>", f"<style>{_STYLE}</style>", *body, "</svg>"]
    )


def _message(tell: Tell, at: dict[str, int], y: int) -> Iterator[str]:
    start = at[tell.sender]
    kind = "command" if is_command(tell.name) else "refusal" if tell.name in REFUSALS else "event"
    if not tell.receivers:
        yield f'<circle class="{kind}" cx="{start}" cy="{y}" r="4"/>'
        yield f'<text class="label" x="{start}" y="{y - 9}">{escape(tell.name)}</text>'
        return
    for name in tell.receivers:
        end = at[name]
        way = 1 if end > start else -1
        more = "" if name in tell.acts else " noted"
        yield f'<line class="{kind}{more}" x1="{start}" y1="{y}" x2="{end - 2 * way}" y2="{y}"/>'
        yield (
            f'<path class="head {kind}{more}" '
            f'd="M{end - 10 * way} {y - 5} L{end - 2 * way} {y} L{end - 10 * way} {y + 5}"/>'
        )
    nearest = min((at[name] for name in tell.acts or tell.receivers), key=lambda x: (abs(x - start), x))
    middle = start + (1 if nearest > start else -1) * _GAP // 2
    yield f'<text class="label" x="{middle}" y="{y - 7}">{escape(tell.name)}</text>'
