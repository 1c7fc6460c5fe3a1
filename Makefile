# `make train` and `make test` also set up the environment. ARGS="optimizer=adam" passes overrides.
PYTHON ?= python3
BIN := .venv/bin
CHROMIUM ?= chromium
SCREENSHOT = $(CHROMIUM) --headless --no-sandbox --hide-scrollbars --window-size=1260,800 \
	--virtual-time-budget=20000 --screenshot
INSTALLED := .venv/installed
INSTALLED_DEV := .venv/installed-dev
PIP = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: train test lint format soak pictures constraints clean

train: $(INSTALLED)
	$(BIN)/python scripts/train.py $(ARGS)

test: $(INSTALLED_DEV)
	$(BIN)/pytest $(ARGS)

lint: $(INSTALLED_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Long trials of hundreds of runs.
soak: $(INSTALLED_DEV)
	$(BIN)/pytest -m soak $(ARGS)

# Draws the README's pictures: a figure and the report of compare.py, the benchmark, and TensorBoard in Chromium.
pictures: $(INSTALLED_DEV)
	$(BIN)/python scripts/train.py experiment=paths
	$(BIN)/python scripts/train.py -m name=study optimizer=sgd,adam batch=full,mini
	$(BIN)/python scripts/compare.py logs/sweeps/paths
	cp logs/sweeps/paths/compare/paths.png .github/assets/paths.png
	PYTHONPATH=scripts $(BIN)/python -m benchmarks.figure .github/assets/speed.png
	$(SCREENSHOT)=.github/assets/report.png "file://$(CURDIR)/logs/sweeps/paths/compare/report.html"
	$(BIN)/tensorboard --logdir logs/sweeps/study --port 6116 & trap "kill $$!" EXIT; sleep 15; \
	$(SCREENSHOT)=.github/assets/tensorboard.png "http://localhost:6116/#scalars"; \
	$(SCREENSHOT)=.github/assets/hparams.png "http://localhost:6116/#hparams"

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up .venv for training. This takes a few minutes, mostly to download torch."
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Adding the packages for figures, tests and linters."
	$(PIP) -e '.[dev]'
	touch $@

# Pins the newest compatible versions for every platform and Python. Needs uv. torch is pinned first because
# a newer one would pull in gigabytes of GPU packages.
constraints:
	echo "torch==2.13.0" | uv pip compile --quiet --universal -c - --all-extras --no-annotate --no-header \
		pyproject.toml -o constraints.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
