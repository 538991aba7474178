"""`fathom data …`: chat examples to tune on, made, checked, described and reviewed; one file for each command."""
