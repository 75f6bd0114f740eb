"""Figures as views of the metrics: their rows, and Vega-Lite charts of them."""
