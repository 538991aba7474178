"""Suites in, figures with intervals out. Import names from its files: `import eval` would hide the builtin."""
