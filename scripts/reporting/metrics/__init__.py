"""The table of results: the metrics, how they are collected and viewed, and how other code recomputes them."""
