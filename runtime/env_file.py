"""Reads `.env` in the encodings that common editors and shells write."""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import Final

from dotenv.main import DotEnv
from dotenv.parser import parse_stream

from runtime.problems import RuntimeProblem

_ENCODINGS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""By byte order mark: PowerShell's `>` writes UTF-16, Notepad may write either."""

_FOLDERS: Final = ("ORDERFLOW_HOME",)
"""Settings that are paths. Relative ones are resolved against the folder of `.env`, not the current folder."""


def read(path: Path) -> dict[str, str]:
    """The settings in `path`; empty if it doesn't exist. Raises RuntimeProblem that names the invalid line."""
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RuntimeProblem(f"{path} can't be read: {error.strerror}.", "Give yourself the right to.") from error
    encoding = next((name for mark, name in _ENCODINGS if written.startswith(mark)), "utf-8")
    try:
        text = written.decode(encoding)
    except UnicodeDecodeError as error:
        line = written.count(b"\n", 0, error.start) + 1
        raise RuntimeProblem(f"{path}, line {line}: not UTF-8.", "Save the file as UTF-8, then try again.") from error
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key and binding.value is None):
            before = binding.original.string
            line = binding.original.line + before[: len(before) - len(before.lstrip())].count("\n")
            raise RuntimeProblem(
                f"{path}, line {line}: neither NAME=value nor a comment.",
                "Correct the line, or put # before it.",
            )
    found = {n: v for n, v in DotEnv(None, io.StringIO(text), interpolate=False).dict().items() if v is not None}
    return found | {name: str(path.parent / found[name]) for name in _FOLDERS if found.get(name)}
