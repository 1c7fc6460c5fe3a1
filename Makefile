# `make train` and `make test` are all the set-up there is. ARGS="optimizer=adam" passes overrides.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: train test lint soak constraints clean

train: $(INSTALLED)
	$(BIN)/python scripts/train.py $(ARGS)

test: $(INSTALLED)
	$(BIN)/pytest $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Long trials: hundreds of runs.
soak: $(INSTALLED)
	$(BIN)/pytest -m soak $(ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Pins the newest versions that fit, for every platform and Python. Needs uv; torch is pinned first because
# a newer one would pull in gigabytes of GPU packages.
constraints:
	echo "torch==2.13.0" | uv pip compile --quiet --universal -c - --all-extras --no-annotate --no-header \
		pyproject.toml -o constraints.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
