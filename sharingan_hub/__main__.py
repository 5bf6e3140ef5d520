"""`python -m sharingan_hub` is the `sharingan` command."""

import sys

from sharingan_hub.cli import main

if __name__ == "__main__":
    sys.exit(main())
