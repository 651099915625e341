"""`python -m entity_book COMMAND` is `entity-circuits COMMAND`."""

import sys

from .build.cli import main

sys.exit(main())
