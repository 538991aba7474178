"""`fathom adapt`: a recipe becomes a plan, a run, a report. Words of the command line only; adapt/ does the work."""
