"""Check a config before anything else runs, and print every error in it, or nothing.

    python scripts/check_config.py experiments/small.yaml mine.yaml

The files are laid over config.yaml, in this order. The same check is part of every run; alone, it also names files that
are missing or empty, where Snakemake ends with a traceback, and is not silenced with Snakemake's own messages.
"""

import argparse
import sys

from pipeline.config.check import ConfigError, check_config
from pipeline.config.files import read_layers
from pipeline.config.schema import merged
from pipeline.run.made_with import OtherExperiment, refuse_other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="a config file")
    files = ["config.yaml", *parser.parse_args().files]
    layers, _ = read_layers(files)  # what cannot be read is reported by the check
    try:
        refuse_other(check_config(merged(*layers), files), files)
    except ConfigError as error:
        sys.exit(f"errors in the config:\n{error}")
    except OtherExperiment as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
