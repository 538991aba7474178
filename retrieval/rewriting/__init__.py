"""What to search for: a question and the messages before it → queries, by rule, by a model, from the collection."""
