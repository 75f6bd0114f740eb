"""Models on disk: how a directory is written, checked and read, and whether responses fit a model."""
