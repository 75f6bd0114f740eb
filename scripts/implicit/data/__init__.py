"""Building the paper's datasets: recipes for raw rows, alterations, rewriting. No files are read here."""
