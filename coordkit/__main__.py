"""`python -m coordkit` is `coordkit`."""

import sys

from coordkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
