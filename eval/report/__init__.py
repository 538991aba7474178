"""A run's records → pages for people: one self-contained HTML file, and Markdown for a terminal."""
