"""The page on which people review chat examples: accept, edit, reject, with keys."""
