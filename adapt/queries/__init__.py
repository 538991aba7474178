"""Unlabeled documents in, pairs of a question and the passage that answers it out: what retrieval can be tuned on."""
