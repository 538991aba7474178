"""Where a collection lives on disk: the catalogue, which is the truth, and the two indexes that follow it."""
