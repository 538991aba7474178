"""Domain text: sources → clean documents → packed blocks → one fixed order of training."""
