"""The report: what its page contains, and the page's template, style and script."""
