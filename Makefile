# Every target sets up what it needs by itself: a virtual environment in .venv with the packages of requirements.lock
# and this package in editable mode. A second call installs nothing. Nothing is written outside this folder.
#
#   PROFILE         smoke, quick (default), study or paper: how much `make figures` computes
#   CORES           how many cores to use; all of them by default
#   PYTHON          the Python (3.11 to 3.13) to make the environment from
#   SET             changes to params/PROFILE.yaml, e.g. SET="width=32 seeds=[0]"
#   ONLY            one notebook's figures, e.g. ONLY=02
#   FOLDER          where the figures go instead of figures/PROFILE, to compare them with the published ones; or the site
#                   of `make report`, instead of runs/report
#   COMPLETE        1: train nothing, and show what is there: a study's networks take hours, interim results need not wait
#   VERIFY          train: `make verify` trains the study's networks anew too, which takes days of a core
#   SNAKEMAKE_ARGS  more arguments for Snakemake, e.g. "--profile profiles/slurm" or "--dry-run"
#
# On Linux the default torch of PyPI comes with CUDA (gigabytes). For the CPU-only one:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make figures

PROFILE ?= quick
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
PYTHON ?=
SET ?=
ONLY ?=
FOLDER ?=
COMPLETE ?=
VERIFY ?=
SNAKEMAKE_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PROFILES := smoke quick study paper

# The environment is the one in .venv, whatever the caller's shell has set.
unexport PYTHONPATH PYTHONHOME MPLBACKEND VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_USER := 0
# A kernel `python3` in the user's own Jupyter folder, or on the user's JUPYTER_PATH, must not be found before ours.
export JUPYTER_PREFER_ENV_PATH := 1
RUN := PATH="$$PWD/$(VENV)/bin:$$PATH" JUPYTER_PATH="$$PWD/$(VENV)/share/jupyter" $(PY)
# As many processes as cores, one thread in each: faster here than one process with all the threads.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help figures publish verify test lab report bench torture setup clean

ifneq ($(filter figures publish,$(MAKECMDGOALS)),)
ifneq ($(words $(PROFILE))-$(filter $(PROFILES),$(PROFILE)),1-$(PROFILE))
$(error PROFILE=$(PROFILE) is not known: use one of $(PROFILES))
endif
endif

help: ## list the targets
	@echo "usage: make TARGET [PROFILE=smoke|quick|study|paper] [ONLY=02] [SET=\"width=32\"] [CORES=N]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' Makefile
	@echo "CPU-only torch on Linux: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make TARGET"

figures: setup ## every figure and table, into figures/PROFILE (default: quick)
	@$(RUN) -m gradcam_gan figures --profile $(PROFILE) $(SET) --cores $(CORES) $(if $(ONLY),--only $(ONLY)) \
	    $(if $(FOLDER),--folder $(FOLDER)) $(if $(COMPLETE),--complete) --snakemake="$(SNAKEMAKE_ARGS)"

publish: ## make figures, then keep them: outputs in notebooks/ (the study's where its archive is enough), verdicts in README.md
	@$(MAKE) --no-print-directory figures
	@$(RUN) -m gradcam_gan publish --profile $(PROFILE)

verify: setup ## make the published numbers again in a fresh folder, and compare them value by value
	@$(RUN) -m gradcam_gan verify --profile quick --cores $(CORES)
	@$(RUN) -m gradcam_gan verify --profile study --cores $(CORES) $(if $(filter train,$(VERIFY)),--train)

test: setup ## lint, types, tests, and every notebook at the smoke profile
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-cache
	$(ONE_THREAD) $(RUN) -m pytest -n $(CORES)
	@if ls notebooks/*.ipynb >/dev/null 2>&1; then set -x; \
	    GRADCAM_GAN_PROFILE=smoke $(ONE_THREAD) $(RUN) -m pytest -n $(CORES) --dist loadfile --nbval-lax notebooks; \
	fi

lab: setup ## open JupyterLab on notebooks/
	@$(RUN) -m jupyterlab notebooks

# quick is the default of `make figures`; here a profile must be asked for
report: setup ## render all notebooks to one static site, runs/report/index.html; with PROFILE=, those it executed
	@$(RUN) -m gradcam_gan report $(if $(filter-out file,$(origin PROFILE)),--profile $(PROFILE)) \
	    $(if $(FOLDER),--folder $(FOLDER))

bench: setup ## measure the speed of training and of the explanations
	@$(RUN) -m benchmarks

torture: setup ## kill, damage and fill disks on purpose: an hour of a core; the README's counts come from it
	@PYTHONPATH=tests $(ONE_THREAD) $(RUN) -m torture

# The stamp .venv/.ready holds a checksum of the pins and the place of this folder. It must match, and the
# environment's Python must still start and know the package; otherwise pip brings the environment up to date, or, where
# it is broken, half made or moved, it is made anew.
setup: ## make or update the environment in .venv (the other targets do this by themselves)
	@set -e; \
	key="$$(cat requirements.lock pyproject.toml | cksum) in $$PWD"; \
	if [ -x $(PY) ] && [ -f $(VENV)/.ready ] && [ "$$(sed 's/.* in //' $(VENV)/.ready)" = "$$(echo "$$key" | sed 's/.* in //')" ] \
	    && $(PY) -c 'from importlib.metadata import version as v; v("gradcam-gan"), v("pip"), v("snakemake")' 2>/dev/null; \
	then usable=yes; else usable=no; fi; \
	if [ $$usable = yes ] && [ "$$(cat $(VENV)/.ready)" = "$$key" ]; then exit 0; fi; \
	if [ $$usable = yes ]; then \
	    echo "Updating .venv: requirements.lock or pyproject.toml has changed"; rm -f $(VENV)/.ready; \
	else \
	    base=; \
	    for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11); do \
	        base="$$("$$candidate" -c 'import sys, venv, ensurepip; assert (3, 11) <= sys.version_info[:2] <= (3, 13); print(sys._base_executable)' 2>/dev/null)" \
	            && break || base=; \
	    done; \
	    if [ -z "$$base" ]; then \
	        echo "Python 3.11, 3.12 or 3.13 with its venv module is needed$(if $(PYTHON), and $(PYTHON) is not that); name one with PYTHON=" >&2; exit 1; \
	    fi; \
	    echo "Setting up .venv with $$base: a minute or two, plus the time to download torch"; \
	    rm -rf $(VENV); "$$base" -m venv $(VENV); \
	fi; \
	$(PY) -m pip install -qq --no-compile --no-deps -r requirements.lock; \
	$(PY) -m pip install -qq --no-compile --no-deps --no-build-isolation -e .; \
	$(PY) -m pip check >/dev/null 2>&1 || $(PY) -m pip install -qq --no-compile -r requirements.lock; \
	echo "$$key" > $(VENV)/.ready

clean: ## remove .venv and caches; runs, data and figures stay
	rm -rf $(VENV) .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
