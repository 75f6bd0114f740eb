"""What the datasets of the paper are made of: recipes of raw rows, alterations, rewriting. No files are read here."""
