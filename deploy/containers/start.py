"""Starts what this image contains: a service or the command line. The image sets `ORDERFLOW_SERVICE`."""

import os
import sys

if __name__ == "__main__":
    name = os.environ["ORDERFLOW_SERVICE"]
    if name == "cli":
        from cli.main import main as run

        sys.exit(run())
    from orderflow.serve import main

    sys.exit(main([name, *sys.argv[1:]]))
