"""Corpora and examples in, models and adapters out."""
