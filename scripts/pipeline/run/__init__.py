"""Queries to the running Snakemake, and what it displays. Only the rules import from here."""
