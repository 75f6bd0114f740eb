"""What the running Snakemake is asked, and what it shows. Only the rules import from here."""
