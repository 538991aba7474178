"""Does a passage bear a claim out: by shared words, by a trained encoder, by a language model."""
