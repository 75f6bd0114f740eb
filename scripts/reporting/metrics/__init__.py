"""The table of results: which metrics there are, how they are collected, viewed, and counted anew by other code."""
