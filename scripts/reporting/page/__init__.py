"""The report: the page's content, template, style and script."""
