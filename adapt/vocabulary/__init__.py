"""Domain tokens: new words for a tokenizer and rows for them in a model."""
