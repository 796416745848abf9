# Two commands for a fresh machine with Python >= 3.11, a C++ compiler and pip:
#   make demo    one whole label-free round on the bundled model, with a before/after table
#   make test    lint and every test
# Both first make .venv/ and build and install the package into it; when nothing has changed since,
# that step is skipped. `make develop` installs the package in place instead, for work on it.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fastsi-installed
EXTRAS := dev,report,gguf,peft,symbolic
JOBS ?= 2
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=

# The first interpreter that is new enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Whatever ends up in the wheel, or decides how it is built.
SOURCES := $(shell find fastsi csrc $(wildcard cmake) -type f ! -name '*.pyc' ! -name '*.so' ! -path '*/.*') \
	pyproject.toml constraints.txt CMakeLists.txt LICENSE README.md
CXX_SOURCES := $(shell find csrc -type f \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \))

export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint format bench wheel develop install clean

demo: $(STAMP)
	$(BIN)/fastsi demo $(DEMO_ARGS)

test: lint
	$(BIN)/python -P -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(STAMP)
	@set -e; for script in benchmarks/*/bench_*.py; do \
		echo "== $$script"; $(BIN)/python $$script $(BENCH_ARGS); done

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

install: $(STAMP)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 on PATH; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A package installed in place follows the sources by itself. Otherwise the wheel is kept: a test
# looks into it. The first installation brings what is missing, and leaves an older fastsi alone.
$(STAMP): $(SOURCES) | $(BIN)/python
	@if [ -e $(VENV)/.fastsi-in-place ]; then echo "fastsi is installed in place"; else \
		echo "$(BIN)/python -m pip install -c constraints.txt '.[$(EXTRAS)]'" && \
		rm -rf build/wheel && \
		$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel . && \
		wheel=$$(echo build/wheel/fastsi-*.whl) && \
		$(BIN)/python -m pip install --quiet -c constraints.txt "$$wheel[$(EXTRAS)]" && \
		$(BIN)/python -m pip install --quiet --no-deps --force-reinstall "$$wheel"; fi
	@touch $@

develop: | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt 'scikit-build-core>=0.11' pybind11
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	@touch $(VENV)/.fastsi-in-place $(STAMP)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
