"""Statistics of what was made: intervals, similarity, the paper's figures, counts by other code for verify."""
