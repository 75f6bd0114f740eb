"""Statistics of results: intervals, similarity, the paper's figures, and an independent recount for verify."""
