"""What every stage of the DAG shares: the checked config, jobs, files, models on disk. Nothing of the method."""
