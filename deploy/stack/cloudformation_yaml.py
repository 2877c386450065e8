"""Writes CloudFormation templates as YAML, with CloudFormation's short forms as tags. The text is compact, because
CloudFormation accepts at most 51,200 bytes, but still readable."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import yaml


class Ref(str):
    """`!Ref` to a resource or parameter."""


class GetAtt(str):
    """`!GetAtt` of Resource.Attribute."""


class Sub(str):
    """`!Sub` with ${…} placeholders."""


class If(list):  # type: ignore[type-arg]
    """`!If` of a condition's name, the value if it holds, and the value if not."""


class Equals(list):  # type: ignore[type-arg]
    """`!Equals` of two values."""


class Not(list):  # type: ignore[type-arg]
    """`!Not` of one condition."""


class Block(str):
    """Text of several lines, written as it is."""


class Flow(dict):  # type: ignore[type-arg]
    """A mapping that is written in braces, on one line: for parts that occur often and are always alike."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # CloudFormation accepts no aliases

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _scalar(tag: str) -> Callable[[yaml.SafeDumper, Any], yaml.Node]:
    return lambda dumper, value: dumper.represent_scalar(tag, str(value))


def _sequence(tag: str) -> Callable[[yaml.SafeDumper, Any], yaml.Node]:
    return lambda dumper, value: dumper.represent_sequence(tag, list(value))


for _tag, _kind in (("!Ref", Ref), ("!GetAtt", GetAtt), ("!Sub", Sub)):
    _Dumper.add_representer(_kind, _scalar(_tag))
for _tag, _list in (("!If", If), ("!Equals", Equals), ("!Not", Not)):
    _Dumper.add_representer(_list, _sequence(_tag))
_Dumper.add_representer(
    Block, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style="|")
)
_Dumper.add_representer(
    Flow, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", dict(value), flow_style=True)
)

_QUOTED: Final = re.compile(r"(!(?:Ref|GetAtt)) '([\w.:]+)'")


def dump(template: Any) -> str:
    """The template's text. A collection of plain values stands on one line, however long: line breaks cost bytes."""
    text = yaml.dump(template, Dumper=_Dumper, sort_keys=False, width=1000, default_flow_style=None)
    return _QUOTED.sub(r"\1 \2", str(text))  # names need no quotes; the library writes them after every tag
