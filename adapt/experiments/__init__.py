"""Measurements of the adaptation itself, each one command: methods side by side, figures of a GPU."""
