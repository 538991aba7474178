"""Two runs side by side, and the gates a change must pass."""
