"""Keeps the drawings in README and docs current.

A document holds a drawing between `<!-- workflow:MODE [OUTCOME …] [FORMAT] -->` and `<!-- /workflow -->`; the text
between them is generated. FORMAT: mermaid (default) or text; OUTCOME: all outcomes if none is named. An SVG file
carries `<!-- workflow:MODE [OUTCOME …] svg -->` and is generated as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from diagrams.draw import every_outcome, mermaid, text
from diagrams.model import OUTCOMES
from diagrams.svg import svg
from orderflow.contracts import Workflow
from orderflow.routing import TABLE
from runtime import RuntimeProblem

FORMATS: Final = ("mermaid", "text", "svg")
_MARKER: Final = re.compile(r"<!-- workflow:(?P<spec>[^>]*?) -->")
_BLOCK: Final = re.compile(r"(?P<open><!-- workflow:(?P<spec>[^>]*?) -->\n).*?(?P<close><!-- /workflow -->)", re.S)


def draw(mode: Workflow, outcomes: Sequence[str], form: str) -> str:
    """A drawing in one of FORMATS; the same code always gives the same drawing."""
    if form == "mermaid":
        return mermaid(mode, outcomes)
    if form == "svg":
        named = [] if list(outcomes) == every_outcome() else list(outcomes)
        return svg(mode, outcomes, f"<!-- workflow:{' '.join([mode.value, *named, 'svg'])} -->")
    return "\n".join(line.plain for line in text(mode, outcomes))


def renewed(name: str, content: str) -> str:
    """A file's content with renewed drawings. Raises RuntimeProblem, which names the marker that can't be drawn."""
    if name.endswith(".svg"):
        if not (marker := _MARKER.search(content)):
            raise RuntimeProblem(
                f"{name} has no <!-- workflow:… --> in it.", "orderflow workflow show MODE --format svg"
            )
        return draw(*_read(name, marker["spec"], "svg")) + "\n"
    if len(_MARKER.findall(content)) != len(_BLOCK.findall(content)):
        raise RuntimeProblem(f"{name}: a <!-- workflow:… --> has no end.", "Close it by <!-- /workflow -->")
    return _BLOCK.sub(lambda block: block["open"] + _fenced(name, block["spec"]) + block["close"], content)


def renew(paths: Sequence[Path], *, check: bool) -> list[Path]:
    """Renews the files that are not current; with `check`, changes nothing. Returns those files."""
    stale = []
    for path in paths:
        try:
            before = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RuntimeProblem(
                f"{path} can't be read: {error.strerror}.", "Name the files that have drawings."
            ) from None
        after = renewed(str(path), before)
        if after != before:
            stale.append(path)
            if not check:
                path.write_text(after, encoding="utf-8")
    return stale


def _fenced(name: str, spec: str) -> str:
    mode, outcomes, form = _read(name, spec, "mermaid")
    return f"```{form}\n{draw(mode, outcomes, form)}\n```\n"


def _read(name: str, spec: str, default: str) -> tuple[Workflow, list[str], str]:
    """Mode, outcomes and format of a marker."""
    words = spec.split()
    known = {*OUTCOMES, *FORMATS}
    if not words or words[0] not in list(TABLE) or any(word not in known for word in words[1:]):
        raise RuntimeProblem(
            f"{name}: <!-- workflow:{spec} --> is not understood.",
            f"Write <!-- workflow:MODE [OUTCOME …] [FORMAT] --> with MODE one of {', '.join(TABLE)}; "
            f"OUTCOME of {', '.join(OUTCOMES)}; FORMAT of {', '.join(FORMATS)}",
        )
    outcomes = [word for word in words[1:] if word in OUTCOMES] or every_outcome()
    return Workflow(words[0]), outcomes, next((word for word in words[1:] if word in FORMATS), default)
