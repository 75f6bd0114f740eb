"""Reporting on an experiment: one table of metrics; tables, figures, report, events and comparisons as views of it.

To add a metric, add an entry to `registry.DECLARED`; a table, to `tables.TABLES`; a figure, to `figures.FIGURES`.
Nothing in here runs a model or asks a judge, and nothing reads a formatted cell: text is made last.
"""
