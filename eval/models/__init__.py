"""Language models that tell how likely a text is."""
