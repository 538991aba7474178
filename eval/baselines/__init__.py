"""Peers measured beside Fathom. Each is a script with a virtual environment of its own and knows nothing of Fathom."""
