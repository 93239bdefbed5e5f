# Everything happens in .venv; constraints.txt pins what the tests ran on.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench exchange clean

demo: .venv/ready
	$(BIN)/steer generate king-james

test: .venv/ready-test
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# BENCH takes options, as in: make bench BENCH='--rounds 1 --samples 8'
bench: .venv/ready
	$(BIN)/python benchmarks/bench.py $(BENCH)
	$(BIN)/python benchmarks/limit.py
	$(BIN)/python benchmarks/command.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/many.py

# What steer writes, read by llama.cpp (built from source the first time), repeng and transformers.
exchange: .venv/ready
	$(BIN)/python benchmarks/exchange.py $(EXCHANGE)

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/ready: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/ready-test: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-bench
