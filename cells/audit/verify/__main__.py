"""The command: `python -m verify --key KEY FILE`."""

import sys

from .command import main

sys.exit(main(sys.argv[1:], program="verify"))
