# Every target sets up what it needs; `make book` on a fresh clone is enough.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# make book FAST=1    every cell, on less data
# make book ONLY=02   execute one chapter only
# make mine CSV=mine.csv TEXT=narrative LABEL=body_part ARGS="--risk 0.05"
# make neiss NEISS=neiss2024.tsv N=2000   a file or a year, and how many of its cases
# make serve PORT=8001 GGUF=model.gguf    another port, another model (llama.cpp's
#                                         server; ours: .venv/bin/how-sure serve)
BUILD_FLAGS := $(if $(filter-out 0,$(FAST)),--fast) $(if $(ONLY),--only $(ONLY))

.DEFAULT_GOAL := help
.PHONY: setup mine book evidence neiss test test-live lint lab serve bench clean help

help:   ## show this list
	@sed -n 's/^\([a-z-]*\): *.*## /  make \1\t/p' Makefile | expand -t 18
	@echo "  Options: make book FAST=1 | make book ONLY=02 | make neiss NEISS=path | make setup PYTHON=python3.12"

setup: $(READY)  ## create .venv and install the book, its tools and its tests

mine: $(READY)  ## decide on the texts of your own table: make mine CSV=mine.csv
	@test -n "$(CSV)" || { echo "say which table: make mine CSV=mine.csv TEXT=column LABEL=column"; exit 2; }
	$(BIN)/how-sure decide "$(CSV)" $(if $(TEXT),--text "$(TEXT)") \
		$(if $(LABEL),--label "$(LABEL)") $(ARGS)

book: $(READY)  ## run every chapter on the real model and build the HTML
	$(BIN)/python book/build.py $(BUILD_FLAGS)

evidence: $(READY)  ## try the recommended path on many data sets, forty times each
	mkdir -p _build
	$(BIN)/papermill notebooks/14_does_it_hold.ipynb _build/evidence.ipynb -p n_splits 40

neiss: $(READY)  ## run the chapter on NEISS live, on the cases of a file
	@test -n "$(NEISS)" || { echo "say which cases: make neiss NEISS=path"; exit 2; }
	$(BIN)/python book/neiss.py "$(NEISS)" $(if $(N),--n $(N))

test: $(READY)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadfile

test-live: $(VENV)/.ready-server  ## run the tests that ask a real server, which they start
	$(BIN)/python -m pytest tests/live --override-ini addopts= -ra

lint: $(READY)  ## check style, format, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

lab: $(READY)  ## open the chapters in JupyterLab
	$(BIN)/jupyter lab notebooks

serve: $(VENV)/.ready-server  ## serve the embedded model as hosted models are served
	$(BIN)/python -m helpers.local_server $(if $(PORT),--port $(PORT)) \
		$(if $(GGUF),--model "$(GGUF)")

bench: $(VENV)/.ready-bench  ## time the scoring engine and more against others
	$(BIN)/python -m pytest tests/benchmarks --override-ini addopts= -s

clean:  ## remove what was built (not .venv, not the downloads in the user's cache)
	rm -rf _build build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find helpers book tests notebooks -name __pycache__ -o -name .ipynb_checkpoints \
		| xargs rm -rf

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or \
		sys.exit(f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; try: make setup PYTHON=python3.12")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[book,test]'
	touch $@

# Built from source, once: pip keeps the wheel, which is therefore made to run on other
# processors than this one too. What reads images is left out to save time.
$(VENV)/.ready-server: $(READY)
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF $$CMAKE_ARGS" \
		$(BIN)/python -m pip install -c constraints.txt -e '.[server]'
	touch $@

$(VENV)/.ready-bench: $(VENV)/.ready-server
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	touch $@
