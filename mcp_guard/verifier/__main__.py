"""`python -m` of this folder, wherever it has been copied to."""

import sys

from . import main

sys.exit(main())
