"""The first step of `orderflow`: most of our packages have plain names (`cli`, `services`), as others have."""

from __future__ import annotations

import os
import sys
import sysconfig


def main() -> None:
    """Runs the command line with this checkout's packages, whatever PYTHONPATH holds."""
    here = os.path.dirname(os.path.abspath(__file__))
    if not os.path.isdir(os.path.join(here, "cli")):
        sys.exit("The orderflow command works in a checkout of the repository: clone it, then `make up`.")
    installed = set(sysconfig.get_paths().values())
    given = {os.path.abspath(path) for path in os.environ.pop("PYTHONPATH", "").split(os.pathsep) if path}
    sys.path[:] = [here, *(path for path in sys.path if os.path.abspath(path) not in given - installed)]
    from cli.main import main as run

    run()
