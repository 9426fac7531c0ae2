# `make demo` and `make test` are all a newcomer needs; the rest is for daily work.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format docs bench train chat fuse rollback eval

BIN := .venv/bin
MLX_TUNE := $(BIN)/mlx-tune
STORE ?= adapters

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## Make .venv with everything the program needs, a fast BLAS included.

.venv/.ready: pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh

.venv/.dev: .venv/.ready
	@echo "installing the development tools…"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: .venv/.ready ## Watch a real model learn two subjects and keep the first; FULL=1: all 166 facts.
	@FULL=$(FULL) sh scripts/demo.sh $(MLX_TUNE)

test: .venv/.dev ## Run the tests on tiny models, in a few minutes.
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.venv/.tools: scripts/test-tools.sh scripts/debian.sh .venv/.ready
	@sh scripts/test-tools.sh
	@touch $@

# Clients of other people; those that could not be installed are skipped, with the reason.
.venv-clients/.ready: scripts/clients.sh | .venv/.ready
	@sh scripts/clients.sh

test-slow: .venv/.dev .venv/.tools .venv-clients/.ready ## Run the tests on the real model, and those that break things.
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 4 --dist loadfile

check: .venv/.dev ## Format, lint, types, import directions.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev ## Put the code in its one format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.dev ## Write the generated reference pages.
	$(BIN)/python scripts/reference.py

bench: .venv/.ready ## Measure training against others: make bench ARGS='--help'
	@$(BIN)/python -m benchmarks.training $(ARGS)

train: .venv/.ready ## Train: make train DATA=data/cs.json
	@test -n "$(DATA)" || { echo 'error: name the data: make train DATA=data/cs.json' >&2; exit 2; }
	@$(MLX_TUNE) train $(DATA) --store $(STORE)

chat: .venv/.ready ## Talk to the model.
	@$(MLX_TUNE) chat --store $(STORE)

fuse: .venv/.ready ## Write the folded model: make fuse OUT=fused
	@$(MLX_TUNE) fuse --store $(STORE) --out $(or $(OUT),fused)

rollback: .venv/.ready ## One step back.
	@$(MLX_TUNE) rollback --store $(STORE)

eval: .venv/.ready ## What does it still know?
	@$(MLX_TUNE) eval --store $(STORE)
