"""`python -m raylora`."""

from raylora.cli import main

main()
