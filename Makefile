# `make train` and `make test` do everything from a fresh clone; `make check` adds the linters.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test docs compare results check format clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

train: $(VENV)/installed
	$(BIN)/python train_agent.py

# A file's tests stay in one process, where they share what is dear to make. Slow files begin first (tests/conftest.py).
test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 20

# The documentation site, into docs/_build; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build

# Every method on every packaged recording at one point of accuracy, and at others for the fronts: about an hour on two cores.
compare: $(VENV)/installed
	$(BIN)/cprune-rl compare --problems all --methods all --fronts=-0.005,-0.03 --seeds 5 --out comparison

# Networks on published images: many hours, goes on where it was stopped. A folder that is not given is skipped:
# make results FASHION_MNIST=DIR CIFAR10_JPEG=DIR CIFAR_RESNETS=DIR
results: $(VENV)/installed
	FASHION_MNIST=$(FASHION_MNIST) CIFAR10_JPEG=$(CIFAR10_JPEG) CIFAR_RESNETS=$(CIFAR_RESNETS) $(BIN)/python benchmarks/results.py $(RESULTS)

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 20

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
