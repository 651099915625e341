"""`python -m entity_book COMMAND` is `entity-circuits COMMAND`."""

import sys

from .build.cli import main

if __name__ == "__main__":
    sys.exit(main())
