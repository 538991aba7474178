"""The commands of `fathom eval`, one file each."""
