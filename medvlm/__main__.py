"""python -m medvlm, for torchrun."""

import sys

from medvlm.cli import main

sys.exit(main())
