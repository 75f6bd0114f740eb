"""What all stages of the DAG share: the checked config, jobs, files, models on disk. Nothing of the method."""
