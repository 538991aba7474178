"""What is measured on: test collections, questions, conversations, texts, read and checked, errors with their line."""
