"""See `orderflow.serve`."""

import sys

from orderflow.serve.main import main

sys.exit(main())
