PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
EXTRAS ?= dev
# An additional package index for torch, for example PyTorch's own CPU index; empty: pip's configuration decides.
TORCH_INDEX ?=
BIN    := $(VENV)/bin
comma  := ,
STAMP  := $(VENV)/.stamp-$(subst $(comma),-,$(EXTRAS))
BASE   := $(VENV)/.stamp-base
export OMP_NUM_THREADS ?= 1
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt

.PHONY: install demo test check format lint types layers unit examples bench docs clean

$(BASE): pyproject.toml constraints.txt
	@echo "netwright: setting up $(VENV) (about a minute)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(STAMP): $(BASE)
	$(PIP) -e '.[$(EXTRAS)]'
	touch $@

install: $(BASE)

demo: $(BASE)
	$(BIN)/netwright run examples/digits.toml

test: $(STAMP)
	$(BIN)/python -m pytest

check: format lint types layers test examples

format: $(STAMP)
	$(BIN)/ruff format --check src tests examples benchmarks

lint: $(STAMP)
	$(BIN)/ruff check src tests examples benchmarks

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

examples: $(STAMP)
	@for f in examples/[0-9]_*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

bench: $(STAMP)
	@for f in benchmarks/[a-z]*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

docs: $(STAMP)
	$(BIN)/netwright status --write-to docs

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
