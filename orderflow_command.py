"""The first step of `orderflow`: some of our packages have plain names (`cli`, `services`), as others have."""

from __future__ import annotations

import os
import sys
import sysconfig


def main() -> None:
    """Runs the command line with this project's packages, whatever PYTHONPATH holds."""
    ours = {os.path.dirname(os.path.abspath(__file__)), *sysconfig.get_paths().values()}
    given = {os.path.abspath(path) for path in os.environ.pop("PYTHONPATH", "").split(os.pathsep) if path}
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) not in given - ours]
    from cli.main import main as run

    run()
