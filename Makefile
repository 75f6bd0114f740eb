# make run    builds the environment where that is needed, then runs the default experiment
# make plan   says what that will cost: jobs, tokens, GPU hours, calls of the judge, price
# make test   likewise, then runs the whole test suite
# make test-slurm  runs a whole SLURM on this machine, and the workflow on it (root, Debian); says so where it cannot
# make lint   checks style (needs envs/dev.txt)
# Options: CORES=4, CONFIG=experiments/seeds.yaml (or several, in quotes), PYTHON=python3.12

CORES ?= all
CONFIG ?=
PYTEST_ARGS ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: run plan test test-slurm lint environment

environment:
	@PYTHON="$(PYTHON)" sh envs/build.sh

run: environment
	@snakemake all --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG))

plan: environment
	@snakemake plan --cores 1 --quiet all $(if $(CONFIG),--configfile $(CONFIG))

test: environment
	@python -m pytest $(PYTEST_ARGS)

test-slurm: environment
	@python -m pytest tests/test_slurm.py -m slurm $(PYTEST_ARGS)

lint: environment
	@python -m pip install --quiet --disable-pip-version-check -r envs/dev.txt
	ruff check . && ruff format --check . && snakefmt --check .
