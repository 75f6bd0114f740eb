"""Models on disk: writing, checking and reading a directory, and whether responses fit a model."""
