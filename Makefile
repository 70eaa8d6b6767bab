# Each target does all its own set-up; the only thing needed is Python >= 3.11 with venv.
#   make demo    the main job on the built-in task, a sweep over beta, and the frontier
#   make test    the tests (make coverage: the same, traced, at half the speed)
#   make lint    ruff, pyright, import-linter
#   make docs    the site of docs/, in build/site: open build/site/index.html
#   make faults  200 single faults in the files of a run, 2,000 damaged and hostile inputs: none silent, none a traceback   8 min
#   make versions  the tests of the mathematics and of a run with each Python found, oldest and newest packages     8 min or more a row, of which there are two a Python
#   make readme  a fresh clone in a temporary folder: what the README installs, and each of its commands as printed     30 min
# Measured claims, each with its command:
#   make claims       the field's claims 1 to 11, recomputed            20 s on 2 cores
#   make estimators   bias, variance and gradient error of every KL     10 s
#   make convergence  every penalty to its end, against the oracle      20 min
#   make benchmark    the speed of a step beside what this machine could do (docs/performance.md)
#   make scaling      how that grows with batch, length, model, runs and devices (docs/performance.md)
#   make directions   both directions of KL on text (docs/directions.md)   4 min on 2 busy cores
#   make overfitting  each measure against overfitting on too few rows; data: KLJAX_DATA (docs/models.md)          4 min
#   make overoptimisation  a proxy reward model against a gold one; data and models: KLJAX_DATA, KLJAX_MODELS (docs/models.md)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test coverage lint docs faults readme versions claims estimators convergence directions benchmark scaling overfitting overoptimisation clean

demo: $(VENV)/base
	$(BIN)/python experiments/train.py
	$(BIN)/python experiments/train.py -m kl.beta=0.4,0.7,1.2,2.4
	$(BIN)/python experiments/frontier.py runs/grammar

test: $(VENV)/test
	$(BIN)/python -m pytest

coverage: $(VENV)/test
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: $(VENV)/test
	$(BIN)/python -m mkdocs build

faults: $(VENV)/test
	$(BIN)/python -m tests.faults.single
	$(BIN)/python -m tests.faults.fuzz

readme:
	$(PYTHON) -m tests.readme.fresh_clone

versions:
	$(PYTHON) -m tests.versions

claims: $(VENV)/base
	$(BIN)/python -m experiments.studies.claims

estimators: $(VENV)/base
	$(BIN)/python -m experiments.studies.estimators

convergence: $(VENV)/base
	$(BIN)/python -m experiments.studies.convergence

directions: $(VENV)/base
	$(BIN)/python experiments/directions.py modes
	$(BIN)/python experiments/directions.py forgetting

benchmark: $(VENV)/base
	$(BIN)/python -m experiments.benchmarks.speed --size xs --loop
	$(BIN)/python -m experiments.benchmarks.speed --size s
	$(BIN)/python -m experiments.benchmarks.speed --size m

scaling: $(VENV)/base
	$(BIN)/python -m experiments.benchmarks.growth

overfitting: $(VENV)/test
	$(BIN)/python -m experiments.studies.overfitting

export KLJAX_MODELS ?= models
overoptimisation: $(VENV)/test
	test -e $(KLJAX_MODELS)/review_proxy || \
	  $(BIN)/python experiments/pretrain.py experiment=review_proxy run.export_to=$(KLJAX_MODELS)/review_proxy
	test -e $(KLJAX_MODELS)/review_proxy_small || \
	  $(BIN)/python experiments/pretrain.py experiment=review_proxy_small run.export_to=$(KLJAX_MODELS)/review_proxy_small
	test -e $(KLJAX_MODELS)/review_gold || \
	  $(BIN)/python experiments/pretrain.py experiment=review_gold run.export_to=$(KLJAX_MODELS)/review_gold
	$(BIN)/python experiments/train.py -m experiment=overoptimisation kl.beta=0.2,0.1,0.05,0.02,0.01,0.005
	$(BIN)/python -m experiments.studies.overoptimisation runs/overoptimisation

clean:
	rm -rf $(VENV)

# A stamp for each set of extras, so that a second call installs nothing.
$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/base: $(VENV)/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/test: $(VENV)/base
	$(PIP) install --constraint constraints.txt --editable '.[text,test,docs,notebook]'
	touch $@

$(VENV)/lint: $(VENV)/test
	$(PIP) install --constraint constraints.txt --editable '.[text,test,docs,notebook,lint]'
	touch $@
