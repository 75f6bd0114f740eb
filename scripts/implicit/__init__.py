"""The method of "Instruction Following without Instruction Tuning" (arXiv 2409.14254) as a library.

Nothing here depends on Snakemake, a config file or a results folder: the scripts beside this package
read files, call these functions, and write files.
"""
