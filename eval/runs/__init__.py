"""How it is done: suites of parts into run folders that survive a kill."""
