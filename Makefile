# The commands of this project. Each builds the environment it needs in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test check soak bench clean

train: .venv/installed
	$(BIN)/deepcnn train

# Two tests at a time, with a thread each: 11.5 minutes instead of 22 on two slow cores.
test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_structure.py

# Many repetitions of each fault: kills, signals, torn and failing disks. Some minutes.
soak: .venv/installed-dev
	$(BIN)/pytest -m soak --timeout 7200

# Speed against the alternatives; wants a quiet machine. Results go to benchmarks/results/.
bench: .venv/installed-dev
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/alexnet_step.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
