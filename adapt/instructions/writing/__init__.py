"""Examples that a language model writes: Self-Instruct, Evol-Instruct, and their scores by a judge."""
