# Everything runs from .venv, which these targets make themselves. `make demo` and `make test` are the two a newcomer needs.
#
#   PYTHON     interpreter to build .venv with          (default: python3.11, else python3)
#   PIP_FLAGS  extra flags for pip install              (for example a mirror, or an index with CPU builds of torch)

PYTHON    ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
VENV      := .venv
BIN       := $(VENV)/bin
RUN_DIR   ?= runs/demo

.PHONY: demo test test-slow lint docs schemas bench clean help

help:
	@echo "make demo       set up, stretch the tiny model from 512 to 2048 tokens, write a report (minutes)"
	@echo "make test       set up, check style, types and arrows, run the tests"
	@echo "make test-slow  the long proofs: 200 kills, every system call, full-size probes"
	@echo "make lint docs  checks only; regenerate docs/cli.md"
	@echo "make bench      the side-by-side measurements of benchmarks/ at laptop size"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No python3 was found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# pip is told the exact torch first: a range can pull in gigabytes of another build.
$(VENV)/.training: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing pinned versions into $(VENV) (the first time takes a few minutes) …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[serve]'
	@touch $@

$(VENV)/.dev: $(VENV)/.training
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[serve,openvino,dev]'
	@touch $@

demo: $(VENV)/.training
	$(BIN)/modelwright demo --output-dir $(RUN_DIR)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One torch thread per worker: two workers share two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow --timeout=5400

# One after the other: measurements disturb each other. A missed target ends a script with 1 and stands in its result all the same.
bench: $(VENV)/.dev
	-$(BIN)/python -m benchmarks.startup.run
	-$(BIN)/python -m benchmarks.logging.run
	-$(BIN)/python -m benchmarks.steptime.run
	$(BIN)/python -m benchmarks.memory.run --quick
	-$(BIN)/python -m benchmarks.medic_decode.run --quick
	-$(BIN)/python -m benchmarks.medic_eval.run
	$(BIN)/python -m benchmarks.context.run --model modelwright/tiny-1.5m --schedule 1024,2048 --steps 8,16,40 --out benchmarks/context/result-laptop.json
	-for one in validation queue skills analytics daemon overhead training; do $(BIN)/python -m benchmarks.guild_$$one.run; done
	$(BIN)/python -m benchmarks.pages

docs: $(VENV)/.dev
	$(BIN)/python -m modelwright.cli_docs

schemas: $(VENV)/.dev
	$(BIN)/python -m modelwright.schema_registry export

clean:
	rm -rf $(VENV) build dist src/*.egg-info
