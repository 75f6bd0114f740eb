"""What every stage of the DAG shares: the checked config, files on disk, records. No method in it."""
