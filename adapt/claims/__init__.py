"""Claims to train support checkers on: made from documents, questions and what people have judged."""
