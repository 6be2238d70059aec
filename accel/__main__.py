"""`python -m accel` is the `accel` command, also where scripts are not on the path."""

import sys

from accel.cli import main

sys.exit(main())
