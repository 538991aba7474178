"""Instruction data: examples of conversations, where they come from, how they are checked."""
