"""Documents in, passages, hits and cited answers out. Knows no sibling package."""
