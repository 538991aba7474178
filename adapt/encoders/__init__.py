"""Recipes for encoders: rerankers and support checkers that read two texts together, embedding models that read one."""
