"""Speed and size figures, measured beside a peer in one run: `python -m eval.speed --help`."""
