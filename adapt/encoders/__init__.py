"""Recipes for encoders: rerankers and support checkers that read two texts together, trained on a CPU in minutes."""
