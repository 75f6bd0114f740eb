"""The tables, as views of the metrics: columns, footnotes, and the forms of a cell."""
