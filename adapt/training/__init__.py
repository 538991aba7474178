"""The training loop: blocks in a fixed order → checkpoints → a trained model."""
