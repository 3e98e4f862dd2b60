# Everything runs in this clone's own .venv. `make` alone lists the targets.

PYTHON ?= python3.11 python3.12 python3 python
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
INSTALLED := $(VENV)/.installed

# One thread per process: tests run in two processes, and small models gain nothing from more.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo ablation safety reproduce-cityscapes reproduce-coco test browser torture lint format types docs site ops
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Install the tested versions into .venv (PYTHON=path chooses the interpreter)

# A name such as python3.11 may be a launcher without an interpreter behind it, so each is tried by running it.
$(INSTALLED): pyproject.toml constraints.txt
	@set -e; found=; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
	  for candidate in $(PYTHON); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	      2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make setup: none of '$(PYTHON)' is a working Python 3.11 or 3.12 with venv." >&2; \
	    echo "Install one (Debian, Ubuntu: python3.11 and python3.11-venv), or name it: make setup PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo "Installing the packages named in constraints.txt into $(VENV) (a few minutes the first time)"
	@$(PIP) --quiet --no-deps -r constraints.txt
	@$(PIP) --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: export OMP_NUM_THREADS := 2
demo: setup ## The whole pipeline on drawn scenes: teacher, refine, student, report
	$(BIN)/s4m demo

data/demo/split/split.json: | setup
	$(BIN)/s4m demo --data-only

ablation: setup data/demo/split/split.json ## Components and control on the demo's data, SEEDS=3: see docs/ablations.md
	$(BIN)/s4m ablation configs/demo/ablation.py --table components --seeds $(or $(SEEDS),3) --jobs 2
	$(BIN)/s4m ablation configs/demo/ablation.py --table control --seeds $(or $(SEEDS),3) --jobs 2

safety: setup data/demo/split/split.json ## Whether unlabeled images do harm, on five data sets, SEEDS=3: see docs/ablations.md
	[ -f data/cells/test.json ] || $(BIN)/s4m data cells data/cells
	[ -f data/coins/test.json ] || $(BIN)/s4m data coins data/coins
	for name in scenes cells cells_augmented coins; do \
	  $(BIN)/s4m ablation configs/safety/$$name.py --table safety --seeds $(or $(SEEDS),3) --jobs 2 || exit; \
	done
	for name in useless_sam perfect_sam; do \
	  $(BIN)/s4m ablation configs/safety/$$name.py --table safety --rows ours,paper --seeds $(or $(SEEDS),3) --jobs 2 || exit; \
	done

# Without PROFILE=smoke these need the data, the weights (they say which), GPUs and days.
PROFILE ?= paper
GPUS ?= 1
CITYSCAPES_ROOT ?= data/$(if $(filter smoke,$(PROFILE)),miniature-)cityscapes
COCO_ROOT ?= data/$(if $(filter smoke,$(PROFILE)),miniature-)coco

reproduce-cityscapes: setup ## The paper's Cityscapes row: CITYSCAPES_ROOT=... PERCENT=10 GPUS=4 [PROFILE=smoke]
	$(BIN)/s4m reproduce cityscapes $(CITYSCAPES_ROOT) $(addprefix --percent ,$(PERCENT)) \
	  --devices $(GPUS) --profile $(PROFILE)

reproduce-coco: setup ## The paper's COCO row: COCO_ROOT=... PERCENT=2 GPUS=4 [PROFILE=smoke]
	$(BIN)/s4m reproduce coco $(COCO_ROOT) $(addprefix --percent ,$(PERCENT)) \
	  --devices $(GPUS) --profile $(PROFILE)

# Not a part of `setup`: it installs for the whole system. Without a browser, the tests that need one are skipped.
browser: ## Install Chromium, in which the tests look at the report's page (Debian, as root)
	@for name in chromium chromium-headless-shell chromium-browser google-chrome google-chrome-stable; do \
	  if command -v $$name; then exit 0; fi; \
	done; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "make browser: no Chromium or Chrome on the PATH; install one (Debian: sudo apt-get install chromium)." >&2; \
	  exit 1; \
	fi; \
	apt-get -qq update && \
	DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium fonts-liberation

test: setup ## Run the tests
	$(BIN)/pytest -n 2 --dist loadfile  # what a file shares (models, data) is built once

torture: setup ## Kill the cache's writers and `s4m run` hundreds of times, and read thousands of faulty files: an hour
	S4M_TORTURE=1 $(BIN)/pytest tests/test_cache/test_crash.py tests/test_cache/test_coco.py \
	  tests/test_data/test_data_segmentation.py tests/test_reliability -q -s --hypothesis-show-statistics

lint: setup ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## Fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## Check the types
	$(BIN)/mypy

docs: setup ## Write docs/cli.md, the reference of all commands, out of their help
	$(BIN)/python -m s4m_stages.reference

# Not a part of `setup`: the tests do not need it.
site: setup ## Build the documentation as a site in build/site
	@$(PIP) --quiet -c constraints.txt 'mkdocs-material>=9.5,<10'
	rm -rf build/site-source && mkdir -p build/site-source
	git ls-files -z '*.md' docs s4m_pipeline/data/scenes ':!.github' | xargs -0 cp --parents -t build/site-source
	$(BIN)/mkdocs build

ops: setup ## Compile mmcv's operators: 10 minutes on two cores; needs a C++ compiler (on a GPU also nvcc)
	MMCV_WITH_OPS=1 $(PIP) --no-deps --force-reinstall --no-cache-dir \
	  --no-build-isolation --no-binary onedl-mmcv "$$(grep '^onedl-mmcv==' constraints.txt)"
