"""Head-to-head judging and its safeguards: kinds of judge, templates, preferences, win rates."""
