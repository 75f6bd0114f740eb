"""Head-to-head judging and its guards: the kinds of judge, their templates, preferences, win rates."""
