# Two commands do all set-up: `make demo` and `make test`. The others are for daily work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PORT ?= 3000
SERVE ?= 1
# the library; what Dagster and the command line show of it explains itself there
LIBRARY := latent_assets '!latent_assets.cli($$|[.])' '!latent_assets.defs' '!latent_assets.definitions'

.PHONY: demo viewer test check docs dev train lock clean

## Build the embedded default atlas, open it in the browser and in the Dagster UI (SERVE=0: stop after the build).
demo: $(INSTALLED)
	$(BIN)/latent-assets demo --port $(PORT) $(if $(filter 0,$(SERVE)),--no-serve)

## Build the viewer, when its sources changed.
viewer: $(INSTALLED)
	$(BIN)/python -m latent_assets.web.building

## Everything that must hold: what `check` looks at, and the tests.
test: check viewer
	-$(BIN)/python -m latent_assets_tests.node_packages  # without it the tests of JavaScript are skipped, and say so
	-$(BIN)/python -m latent_assets_tests.embedding_atlas  # without it its test is skipped, and says so
	$(BIN)/python -m latent_assets_tests.web.browser
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

## Format, lint, types, who may import whom, dependencies, dead code, definitions.
check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/vulture
	$(BIN)/dagster definitions validate -w workspace.yaml

## The reference of the package, from its docstrings: build/docs/index.html.
docs: $(INSTALLED)
	PDOC_ALLOW_EXEC=1 $(BIN)/pdoc --docformat google --no-show-source --output-directory build/docs $(LIBRARY)

## Open the Dagster UI on the atlas of the selected profile.
dev: $(INSTALLED)
	$(BIN)/latent-assets ui --port $(PORT)

## Train the demo's models from scratch (hours).
train: $(INSTALLED)
	$(BIN)/python -m infra.training.train all

## Pin the newest versions that pyproject.toml admits.
lock: $(INSTALLED)
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --extra dev -o requirements.lock pyproject.toml

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(INSTALLED)

## Remove what was installed; atlases (.latent-assets) stay.
clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .import_linter_cache .pytest_cache
