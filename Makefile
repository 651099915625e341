# `make` lists what can be made. Needed beforehand: Python 3.11 (3.12 and 3.13 should do), pip, make, a POSIX shell.

# Variables to give on the command line, as in `make book MODEL=qwen2.5-0.5b`. They are set here, so that a variable of
# the same name in your environment changes nothing.
MODEL =
PAIR =
BASE =
FINETUNED =
DEFAULT_MODEL = qwen2.5-coder-0.5b
PARAMETERS =
PRESET =
CHAPTERS =
JOBS = 1
PORT = 8000
BROWSER =
TESTS = -m "not fetch and not faults"
BENCH =
PEERS =
# On Linux the package index has torch with CUDA, several gigabytes of it. This index has it without.
TORCH_INDEX = https://download.pytorch.org/whl/cpu
# The first Python that fits; 3.11 before others, because the book is made with it.
PYTHON = $(shell for python in python3.11 python3 python3.12 python3.13 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11, 5) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)

VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input
READY = $(VENV)/.ready
HALF_MADE = $(VENV)/.half-made
# A variable as one word of the shell, whatever is in it. PARAMETERS, BENCH, PEERS and TESTS are words for the shell themselves.
quoted = '$(subst ','\'',$(1))'
BOOK = $(BIN)/entity-circuits book --jobs $(call quoted,$(JOBS)) \
	$(foreach chapter,$(CHAPTERS),--only $(call quoted,$(chapter))) $(if $(MODEL),-p model $(call quoted,$(MODEL))) \
	$(if $(PRESET),--preset $(call quoted,$(PRESET))) $(if $(PAIR),--pair $(call quoted,$(PAIR))) $(if $(BASE),--base $(call quoted,$(BASE))) \
	$(if $(FINETUNED),--finetuned $(call quoted,$(FINETUNED))) $(PARAMETERS)
FETCH = $(BIN)/entity-circuits fetch $(DEFAULT_MODEL) \
	$(if $(filter-out $(DEFAULT_MODEL),$(MODEL)),$(call quoted,$(MODEL)))

.DEFAULT_GOAL = help
.PHONY: help test book pdf chapters course course-table serve lab lint faults bench peers adapters clean pristine

help:
	@echo 'make book      environment, model, execute the chapters that need it, build the site into _build/html'
	@echo '               MODEL=NAME  PARAMETERS="-p seed 7 -p contexts 20"  CHAPTERS="01 02"  JOBS=2'
	@echo '               PAIR=NAME, or BASE=MODEL FINETUNED=MODEL: all chapters on another pair of models'
	@echo 'make chapters  the same without building the site'
	@echo 'make pdf       the built site as one file, _build/book.pdf; needs Chromium or Chrome   BROWSER=/path/of/it'
	@echo 'make serve     show the site at http://127.0.0.1:8000/   PORT=8001'
	@echo 'make lab       the chapters in JupyterLab, to work on      CHAPTERS=01 opens that one'
	@echo 'make test      environment, test suite                  TESTS="-k boxes"; TESTS="-m fetch" uses the network'
	@echo 'make course    every notebook of the course on the real model, both editions; typical wrong answers (minutes)'
	@echo 'make course-table  the table of the exercises on the page for lecturers: seconds of each check, wrong answers caught'
	@echo 'make faults    kills, flipped bits and malformed input, by the dozen: minutes   KILLS=50 FLIPS=100 in the environment'
	@echo 'make lint      ruff, mypy, import-linter, notebooks in their stored form'
	@echo 'make bench     how fast the replay is against the definition   BENCH="arguments"'
	@echo 'make peers     the replay beside the official way and TransformerLens, for the page on costs   PEERS="arguments"'
	@echo 'make adapters  train the adapters of data/adapters that are missing, and measure them all (hours, no graphics card)'
	@echo 'make clean     remove the site and the executed chapters; stored results, environment and models stay'
	@echo 'make pristine  remove the stored results and the environment too'
	@echo 'Each works first thing in a fresh clone. PYTHON=... chooses the interpreter; TORCH_INDEX= takes torch with CUDA.'

# HALF_MADE, with the number of the make that put it there, stands while packages are being installed: an environment in
# which it was left behind was interrupted and is thrown away. READY is touched last.
$(READY): pyproject.toml constraints.txt hashes.txt
	@test -n $(call quoted,$(PYTHON)) || { echo 'Python 3.11.5 to 3.13 is needed and was not found; name one: make PYTHON=...' >&2; exit 1; }
	@if kill -0 "$$(cat $(HALF_MADE) 2>/dev/null)" 2>/dev/null; then \
		echo 'another make is installing into $(VENV); wait for it, or remove $(VENV) if that is not so' >&2; exit 1; fi
	@if test -e $(HALF_MADE); then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && echo $$PPID > $(HALF_MADE) && rm -f $(READY)
	@echo 'environment: installing the pinned packages into $(VENV) (minutes, the first time)'
	@$(call quoted,$(PYTHON)) -m venv $(VENV)
	@test -z $(call quoted,$(TORCH_INDEX)) || { $(torch-without-cuda); } || \
		echo 'environment: the TORCH_INDEX cannot be reached; torch comes from the usual index, on Linux with CUDA' >&2
	@$(PIP) install -qq --no-deps --require-hashes -r hashes.txt
	@$(PIP) install -qq -c constraints.txt --no-build-isolation -e '.[book,dev]'
	@rm $(HALF_MADE) && touch $(READY)
	@echo 'environment: ready'

# Torch goes first and alone; the next steps find it installed and look no further. Then all else comes by its digests,
# what builds this package too; the last step adds what only some systems need (a torch with CUDA, say). Before the index is relied on, it is
# asked what it has: an unreachable one must not cost minutes, so an alarm (it outlives exec) ends that after 15 s.
within-15-s = $(BIN)/python -c 'import os, signal, sys; signal.alarm(15); os.execv(sys.argv[1], sys.argv[1:])'
from-torch-index = --index-url $(call quoted,$(TORCH_INDEX)) --retries 1
torch-without-cuda = $(within-15-s) $(PIP) index versions torch $(from-torch-index) >/dev/null 2>&1 && \
	$(PIP) install -qq --no-deps $(from-torch-index) $(shell grep '^torch==' constraints.txt)

# A file of tests a process, with one thread each: models so small gain nothing by two.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(TESTS)

# The packages of the extra `course` come only now: nothing else needs them.
with-the-course = $(PIP) install -qq -c constraints.txt --no-build-isolation -e '.[book,dev,course]'

# Two processes of one thread, which load the model once each: notebooks in the one, wrong answers in the other.
course: $(READY)
	$(FETCH)
	$(with-the-course)
	$(BIN)/entity-circuits course --data
	COURSE_REAL=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/course -n 2 --dist loadfile --durations 10

course-table: $(READY)
	$(FETCH)
	$(with-the-course)
	PYTHONPATH=tests COURSE_REAL=1 OMP_NUM_THREADS=1 $(BIN)/python tests/course/table.py

faults: $(READY)
	$(BIN)/python -m pytest tests/faults -m faults -s

# Chapters are executed without a network, so their models are fetched before them (nothing to do if it is there).
chapters: $(READY)
	$(FETCH)
	$(BOOK) --execute-only

book: $(READY)
	$(FETCH)
	$(BOOK)

pdf: $(READY)
	$(BIN)/entity-circuits pdf $(if $(BROWSER),--browser $(call quoted,$(BROWSER)))

serve: $(READY)
	$(BIN)/entity-circuits serve --port $(call quoted,$(PORT))

# JupyterLab and what makes it show the chapters' markup are fetched when they are first asked for, at the versions that
# were tried; chapters take the kernel of this environment, whatever others the user has.
lab: $(READY)
	@$(PIP) install -qq -c constraints.txt -r lab.txt
	$(FETCH)
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab $(foreach chapter,$(CHAPTERS),chapters/$(chapter)_*.ipynb)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/entity-circuits strip --check

bench: $(READY)
	$(BIN)/entity-circuits fetch $(DEFAULT_MODEL)
	$(BIN)/python benchmarks/replay.py $(BENCH)
	$(BIN)/python benchmarks/methods.py

# The script makes an environment of its own for what it compares with.
peers: $(READY)
	$(BIN)/entity-circuits fetch $(DEFAULT_MODEL)
	$(BIN)/python benchmarks/peers.py $(PEERS)

# Seed 0 is shipped: remove its folder to train it again. Each training goes on where it was interrupted.
ADAPTERS = $(foreach kind,arithmetic code code-binding code-other shuffled,data/adapters/$(kind)) \
	$(foreach seed,1 2,$(foreach kind,arithmetic code shuffled,build/adapters/$(kind)-seed$(seed)))

adapters: $(ADAPTERS)
	$(BIN)/entity-circuits measure-adapters

data/adapters/%: | $(READY)
	$(BIN)/entity-circuits finetune $*

build/adapters/%: | $(READY)
	$(BIN)/entity-circuits finetune $(firstword $(subst -seed, ,$*)) --seed $(lastword $(subst -seed, ,$*))

# Stored results took long to compute and are used again only where they are still right, so `clean` leaves them. What a
# book that is being made works on is removed by the command, which holds the lock; without the command no book is made.
clean:
	@if $(BIN)/python -c 'import entity_book.build.cli' 2>/dev/null; then $(BIN)/entity-circuits clean; \
		else rm -rf _build build/executed build/kernels build/site.json; fi
	rm -rf .mypy_cache .ruff_cache .hypothesis .pytest_cache
	find lib tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

pristine: clean
	if test -d build; then find build -mindepth 1 -maxdepth 1 ! -name '.lock*' -exec rm -rf {} +; fi
	rm -rf $(VENV) lib/*.egg-info
