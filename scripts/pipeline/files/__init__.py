"""Reading and writing rows and files: from the hub, from local files, as Parquet. Only `rows` checks rows."""
