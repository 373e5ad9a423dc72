# "make" alone lists the targets. Needs Python >= 3.11 and the package registry; everything goes into .venv.

PYTHON ?= python3
VIDEOS ?=
VENV = .venv
BIN = $(VENV)/bin
# One stamp an interpreter, so that another PYTHON makes the environment anew.
READY = $(VENV)/ready-$(subst /,-,$(PYTHON))

.DEFAULT_GOAL = help
.NOTPARALLEL:
.PHONY: help demo test lint types test-system clean

help:
	@echo "make demo                 install, then from videos to a trained and tested recogniser, in demo-output/"
	@echo "make demo VIDEOS=folder   from your videos to a checked dataset and pictures"
	@echo "make test                 install, then everything that must pass: lint, types, tests"
	@echo "make lint                 only ruff: style and format"
	@echo "make types                only mypy"
	@echo "make test-system          the long tests: real runs, kills, installations"
	@echo "make clean                remove .venv, demo-output and all caches"
	@echo
	@echo "Another interpreter: make test PYTHON=python3.13"

$(READY): setup.cfg pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "flowprep needs Python >= 3.11; '$(PYTHON)' is not: name one, as in  make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing flowprep into $(VENV)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt setuptools
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-build-isolation \
		--config-settings editable_mode=compat -e '.[test]'
	@touch $@

# The shell, not make, puts the folder in: its name may have spaces and quotes.
demo: $(READY)
	$(BIN)/flowprep demo --output demo-output $${VIDEOS:+--videos "$$VIDEOS"}

# Threads of OpenBLAS wait for each other by spinning: where every core is busy, that takes far longer than one thread.
# So do those of PyTorch.
test test-system: export OPENBLAS_NUM_THREADS = 1
test test-system: export OMP_NUM_THREADS = 1

# In two processes, each with half of the tests and then with some of what the other still has.
test: lint types
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy flowprep

test-system: $(READY)
	$(BIN)/pytest -m system

clean:
	rm -rf $(VENV) demo-output build dist flowprep.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
