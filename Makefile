# make run    builds the environment where that is needed, then runs the default experiment
# make plan   says what that will cost: jobs, tokens, GPU hours, calls of the judge, price
# make verify checks that all results are as they were made: files against records, tables against judgements
# make compare A=results/x B=results/y  says what differs between two experiments, and what of it is more than noise
# make archive EXPERIMENT=tiny  packs results/tiny, weights left out, as results/tiny.crate.zip, an RO-Crate
# make test   likewise, then runs the whole test suite
# make test-slurm  runs a whole SLURM on this machine, and the workflow on it (root, Debian); says so where it cannot
# make test-gpu tests on a GPU what is computed there; says so where there is none
# make test-faults runs the workflow with its jobs and Snakemake killed at random moments (FAULTS_SEED=1, FAULTS_EACH=2)
# make bench  times this project against its peers, which get an environment of their own: an hour or more
# make findings  runs all controls in experiments/controls, and fills in docs/findings.md: some two hours on two cores
# make docs   makes docs/config.md, docs/dag.md and config.schema.json anew, after a change of the config's keys or the rules
# make lint   checks style, snakemake --lint included (needs envs/dev.txt)
# Options: CORES=4, CONFIG=experiments/seeds.yaml (or several, in quotes), PYTHON=python3.12

CORES ?= all
CONFIG ?=
PYTEST_ARGS ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)

A ?=
B ?=
EXPERIMENT ?=

.PHONY: run plan verify compare archive bench test test-slurm test-gpu test-faults docs findings lint environment

environment:
	@PYTHON="$(PYTHON)" sh envs/build.sh

run: environment
	@snakemake all --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG))

plan: environment
	@snakemake plan --cores 1 --quiet all $(if $(CONFIG),--configfile $(CONFIG))

verify: environment
	@snakemake verify --cores 1 --quiet all $(if $(CONFIG),--configfile $(CONFIG))

compare: environment
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo "say which: make compare A=results/x B=results/y" >&2; exit 2; }
	@python scripts/compare_results.py "$(A)" "$(B)"

archive: environment
	@[ -n "$(EXPERIMENT)" ] || { echo "say which: make archive EXPERIMENT=tiny" >&2; exit 2; }
	@python scripts/archive_results.py "results/$(EXPERIMENT)"

test: environment
	@python -m pytest $(PYTEST_ARGS)

test-slurm: environment
	@python -m pytest tests/test_slurm.py -m slurm $(PYTEST_ARGS)

test-gpu: environment
	@python -m pytest tests/test_gpu.py -m gpu $(PYTEST_ARGS)

test-faults: environment
	@python -m pytest tests/test_faults.py -m faults -s $(PYTEST_ARGS)

# Each control is an experiment of its own; base models are pre-trained once for all of them.
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
