"""See `orderflow.serve`."""

import sys

from orderflow.serve.command import main

sys.exit(main())
