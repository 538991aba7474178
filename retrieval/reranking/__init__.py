"""A question and its hits → one score a hit: cross-encoders of the hub, and the one that Fathom trains and ships."""
