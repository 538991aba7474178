"""Conversations → rows to train on: the model's own words for a turn, which tokens are learned, how it ends."""
