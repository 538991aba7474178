"""What keeps a model from forgetting: distance to what it was, old logits, new layers beside frozen ones."""
