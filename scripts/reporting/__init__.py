"""What is shown of an experiment: one table of metrics; tables, figures, report, events, comparisons as views of it.

A new metric is an entry of `registry.DECLARED`, a new table one of `tables.TABLES`, a new figure one of
`figures.FIGURES`. Nothing in here runs a model or asks a judge, and nothing reads a formatted cell: text is made last.
"""
