"""Draws messages between services as lanes with arrows, one row per message, for a terminal of any width.

    order             inventory           payment
      ├─╌ OrderPlaced ╌╌▶│                   │

Commands are heavy lines, events are dashed ones; colours only repeat that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from orderflow.contracts import kind_of
from orderflow.saga import STEPS

COMMAND: Final = "bold cyan"
EVENT: Final = "green"
REFUSAL: Final = "bold red"
UNDO: Final = "bold magenta"
UNDONE: Final = "magenta"
NOTE: Final = "yellow"

REFUSALS: Final = {step.refusal.__name__ for step in STEPS} | {"ConfirmationRejected", "OrderNeedsAttention"}
_UNDOS: Final = {step.undo.__name__ for step in STEPS} | {"CancelOrder"}
_UNDONES: Final = {step.undone.__name__ for step in STEPS} | {"OrderCancelled", "OrderCancellationRequested"}

_HEADS: Final = {(True, False): "▶", (False, False): "◀", (True, True): "▷", (False, True): "◁"}

LEGEND: Final = (("━▶ command", COMMAND), ("╌▶ event", EVENT), ("refusal", REFUSAL), ("compensation", UNDO))


def is_command(name: str) -> bool:
    """Whether a message is a command."""
    return kind_of(name) == "command"


def style_of(name: str, kind: str = "") -> str:
    """The colour of a message, by its kind."""
    if kind == "note":
        return NOTE
    if name in REFUSALS:
        return REFUSAL
    if name in _UNDOS:
        return UNDO
    if name in _UNDONES:
        return UNDONE
    return COMMAND if is_command(name) else EVENT


def legend() -> Text:
    """The legend: what the lines mean."""
    return Text("   ").join(Text(text, style) for text, style in LEGEND)


@dataclass(frozen=True, slots=True)
class Arrow:
    """One message: `left` is printed before its row, `aside` after it."""

    sender: str
    receivers: tuple[str, ...]
    label: str
    style: str
    heavy: bool = False
    noted: tuple[str, ...] = ()
    """The receivers that only record the message; their arrowheads are hollow."""
    left: str = ""
    aside: str = ""


class Lanes:
    """Columns for some services in `width` characters, of which `margin` are for the text at the left of each row."""

    def __init__(self, names: Sequence[str], width: int, margin: int = 10) -> None:
        self._names = tuple(names)
        half = max(4, (len(names[0]) + 1) // 2)
        last = (len(names[-1]) + 1) // 2
        gap = (width - margin - half - last - 1) // max(1, len(names) - 1)
        gap = max(12, min(30, gap))
        self._margin = margin
        self._at = {name: half + i * gap for i, name in enumerate(names)}
        self.width = half + (len(names) - 1) * gap + last + 1

    def head(self) -> list[Text]:
        """The services' names."""
        row = [" "] * (self.width + 2)
        for name, at in self._at.items():
            start = max(0, at - len(name) // 2)
            row[start : start + len(name)] = name
        return [Text(" " * self._margin + "".join(row).rstrip(), "bold")]

    def gap(self) -> Text:
        """A row without a message."""
        return self._row({}, "", "")

    def note(self, service: str, text: str, left: str = "") -> Text:
        """A row with a text that begins in a service's lane and covers the lanes to the right of it."""
        start = max(0, min(self._at.get(service, 0), self.width + 1 - len(text)))
        cells = {start + i: (c, NOTE) for i, c in enumerate(text)}
        return self._row(cells, left, "")

    def draw(self, arrow: Arrow) -> Text:
        """The row of one message."""
        if arrow.sender not in self._at:
            return self._row({}, arrow.left, f"{arrow.sender}: {arrow.label}", arrow.style)
        start = self._at[arrow.sender]
        hollow = {self._at[name] for name in arrow.noted if name in self._at}
        ends = [self._at[name] for name in arrow.receivers if name in self._at and name != arrow.sender]
        if not ends:
            return self._alone(arrow, start)
        low, high = min([start, *ends]), max([start, *ends])
        line = "━" if arrow.heavy else "╌"
        cells = dict.fromkeys(range(low, high + 1), (line, arrow.style))
        for name, x in self._at.items():
            if low < x < high and x != start and name not in arrow.receivers:
                cells[x] = ("┿" if arrow.heavy else "┼", "dim")
        for x in ends:
            right = x > start
            cells[x] = ("│", "dim")
            cells[x - 1 if right else x + 1] = (_HEADS[right, x in hollow], arrow.style)
        cells[start] = ("●", arrow.style)
        # The label goes onto the longest piece of line on one side, or beside the arrow if it doesn't fit.
        spans = [(start + 1, high - 1)] if high > start else []
        spans += [(low + 1, start - 1)] if low < start else []
        spans = [self._free(span, ends) for span in spans]
        begin, end = max(spans, key=lambda s: s[1] - s[0])
        room = end - begin - 1
        aside = arrow.aside
        if len(arrow.label) + 2 <= room:
            text = f" {arrow.label} "
            where = begin + (end - begin - len(text)) // 2
            cells |= {where + i: (c, arrow.style) for i, c in enumerate(text)}
            return self._row(cells, arrow.left, aside)
        if len(arrow.label) <= room + 1:
            where = begin + (1 if begin > start else 0) + (room - len(arrow.label)) // 2
            cells |= {where + i: (c, arrow.style) for i, c in enumerate(arrow.label)}
            return self._row(cells, arrow.left, aside)
        return self._beside(cells, arrow, high)

    def _free(self, span: tuple[int, int], ends: list[int]) -> tuple[int, int]:
        """The longest part of a span that contains no arrowhead."""
        begin, end = span
        cuts = sorted(x for x in ends if begin < x < end)
        best, previous = (begin, begin), begin
        for x in [*cuts, end]:
            piece = (previous, x - (2 if x in cuts else 0))
            if piece[1] - piece[0] > best[1] - best[0]:
                best = piece
            previous = x + 2
        return best

    def _alone(self, arrow: Arrow, start: int) -> Text:
        cells = {start: ("●", arrow.style)}
        where = start + 2
        if where + len(arrow.label) > self.width + 1:
            where = start - 1 - len(arrow.label)
        cells |= {where + i: (c, arrow.style) for i, c in enumerate(arrow.label)}
        return self._row(cells, arrow.left, arrow.aside)

    def _beside(self, cells: dict[int, tuple[str, str]], arrow: Arrow, high: int) -> Text:
        where = high + 2
        if where + len(arrow.label) <= self.width + 1:
            cells |= {where + i: (c, arrow.style) for i, c in enumerate(arrow.label)}
            return self._row(cells, arrow.left, arrow.aside)
        return self._row(cells, arrow.left, f"{arrow.label} {arrow.aside}".strip(), arrow.style)

    def _row(self, cells: dict[int, tuple[str, str]], left: str, aside: str, aside_style: str = "dim") -> Text:
        text = Text(f"{left:>{self._margin - 2}}  ", "dim", no_wrap=True, overflow="ellipsis")
        lifelines = set(self._at.values())
        for x in range(max([*lifelines, *cells]) + 1):
            char, style = cells.get(x, ("│" if x in lifelines else " ", "dim"))
            text.append(char, style)
        if aside:
            text.append(f"  {aside}", aside_style)
        return text
