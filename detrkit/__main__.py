"""`python -m detrkit` is `detrkit`; also what `torchrun -m detrkit train …` starts."""

import sys

from detrkit.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
