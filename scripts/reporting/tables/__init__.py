"""Tables as views of the metrics: columns, footnotes, and the formats of a cell."""
