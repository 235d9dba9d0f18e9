"""`python -m speechstream` is the command `speechstream`."""

import sys

from speechstream.cli import main

if __name__ == "__main__":
    sys.exit(main())
