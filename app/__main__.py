"""`python -m app` is `fathom`."""

from app.cli import main

main()
