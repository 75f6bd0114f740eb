"""Rows and files, read and written: from a hub, from local files, as Parquet. `rows` alone checks a row."""
