# Requires Python 3.11 or newer with venv, and make. Everything is installed into .venv.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Tests wait now and then, so one worker more than there are cores.
WORKERS ?= $(shell .venv/bin/python -c "import os; print(min(8, os.cpu_count() + 1))")

.PHONY: demo test test-all check-all lint docs
demo: .venv/.core ; .venv/bin/medvlm demo
test: .venv/.test ; OMP_NUM_THREADS=1 .venv/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test-all: .venv/.test ; OMP_NUM_THREADS=1 .venv/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "slow or not slow"
check-all: .venv/.test ; .venv/bin/python docs/blocks.py
lint: .venv/.test ; .venv/bin/ruff check . && .venv/bin/mypy
docs: .venv/.docs ; NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# The installation is editable: changed sources take effect at once, a changed pyproject.toml reinstalls.
.venv/.core: pyproject.toml | .venv ; @echo "installing medvlm into .venv (a few minutes the first time)" && .venv/bin/pip install -q -e . && touch $@
.venv/.docs: pyproject.toml | .venv ; @echo "installing medvlm[docs] into .venv (a few minutes the first time)" && .venv/bin/pip install -q -e '.[docs]' && touch $@ .venv/.core
.venv/.test: pyproject.toml | .venv ; @echo "installing medvlm[test] into .venv (a few minutes the first time)" && .venv/bin/pip install -q -e '.[test]' && touch $@ .venv/.core .venv/.docs
.venv: ; @test -n "$(PYTHON)" || { echo "medvlm requires Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3.12"; exit 2; } && $(PYTHON) -m venv $@
