"""`python -m` of this folder, wherever it was copied to."""

import sys

from . import main

sys.exit(main())
