"""Small encoders trained here: recipes of adapters on an embedding model."""
