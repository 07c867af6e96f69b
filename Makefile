# make demo, make test: each makes its own environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test lint types install clean

demo: install
	$(BIN)/posedge demo

# two at a time, a thread each: most of the suite is exporters and parsers, which use one core
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the package is checked as it is installed, under its own name
types: install
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p posedge

# dependencies once per version list; the package every time, since new files need new links
install: $(VENV)/dependencies
	$(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=strict -e .

$(VENV)/dependencies: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "posedge needs Python 3.10 or later; name one: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt pip setuptools
	$(PIP) install -c constraints.txt --no-build-isolation '.[all,test]'
	$(PIP) uninstall -y posedge
	touch $@

clean:
	rm -rf $(VENV) build out *.egg-info
