"""One file per subject of the command line; app/cli.py puts them together."""
