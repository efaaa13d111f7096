# What each target does: `make help`. Everything happens in .venv in this
# folder; the first `make demo` or `make test` makes it, later calls reuse it.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# The locked packages have wheels for Python 3.11 to 3.13.
PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
BACKENDS := $(or $(BACKEND),tensorflow jax torch)

# torch is not in the locks, because a plain `torch` brings CUDA along. Its CPU
# build is looked for as pip is configured here, then in PyTorch's own index.
TORCH := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
INSTALL := $(PIP) install -q --no-deps
PROJECT := pyproject.toml setup.py keras_mgrade/version.py
EXTRAS := tensorflow,jax,torch,tflite,compression,tensorboard,test,examples

.PHONY: help demo test test-all bench bench-fast lint format lock resolve clean

help:
	@echo "make demo      trains and streams a small model (examples/quickstart.py)"
	@echo "make test      lint, then the tests once per backend"
	@echo "               (BACKEND=jax make test: only that one)"
	@echo "make test-all  the slow tests, too; an hour"
	@echo "make bench     speed beside peers, twenty minutes on an idle machine"
	@echo "make bench-fast   the same with fewer rounds and sizes"
	@echo "make lint      ruff: rules and format"
	@echo "make format    ruff: repairs what it can"
	@echo "make lock      resolves requirements/*.in into the lock files"
	@echo "make resolve   does the package resolve on Python 3.12 and 3.13?"
	@echo "make clean     removes .venv, builds and caches"

demo: $(VENV)/.demo
	@$(PY) examples/quickstart.py

# All parts run, side by side, whatever fails; each line of output says whose
# it is, and the status at the end is that of the whole. The budget of a part is
# what it may take of the suite's time on two cores.
define run_tests
	@begin=$$SECONDS; failed=0; results=$$(mktemp -d); \
	part() { \
	    local name="$$1" budget="$$2" start=$$SECONDS result=passed took; \
	    shift 2; \
	    "$$@" 2>&1 | sed -u "s/^/[$$name] /"; \
	    [ $${PIPESTATUS[0]} -eq 0 ] || result=FAILED; \
	    took=$$((SECONDS - start)); \
	    [ $$took -le $$budget ] || result="$$result, over its budget"; \
	    printf '%-12s %5d s of %5d s  %s\n' $$name $$took $$budget \
	        "$$result" > "$$results/$$name"; \
	}; \
	part lint 60 $(MAKE) --no-print-directory lint & \
	for backend in $(BACKENDS); do \
	    part $$backend $(2) env $(3) KERAS_BACKEND=$$backend \
	        $(PY) -m pytest $(1) & \
	done; \
	wait; \
	printf '\n'; cat "$$results"/*; \
	printf '%-12s %5d s of %5d s\n' total $$((SECONDS - begin)) $(2); \
	! grep -q FAILED "$$results"/* || failed=1; \
	rm -r "$$results"; exit $$failed
endef

# Three processes on two cores: one thread each. Half of what JAX does in short
# tests is to compile, with the newer emitters of fused loops half as long
# again; `make test-all` lets them compile as users do.
QUICK := OMP_NUM_THREADS=1 XLA_FLAGS="--xla_backend_optimization_level=0 \
    --xla_cpu_use_fusion_emitters=false"

test: $(VENV)/.dev
	$(call run_tests,,1500,$(QUICK))

test-all: $(VENV)/.dev
	$(call run_tests,-m "",3600)

bench: $(VENV)/.bench
	@$(PY) benchmarks/speed.py

bench-fast: $(VENV)/.bench
	@$(PY) benchmarks/speed.py --fast

lint: $(VENV)/.dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(VENV)/.dev
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

lock: $(VENV)/.dev
	@$(PY) requirements/lock.py

# Resolves without installing: the package with every extra as a user would
# get it, and the lock file as it stands.
resolve: $(VENV)/.dev
	@for version in 3.12 3.13; do \
	    echo "resolving for Python $$version ..."; \
	    dry="$(PIP) install -q --dry-run --ignore-installed \
	        --only-binary=:all: --python-version $$version \
	        --target $(VENV)/resolve"; \
	    $$dry --no-build-isolation ".[$(EXTRAS)]" \
	        && $$dry --no-deps -r requirements/dev.lock \
	        || { echo "FAILED for Python $$version"; exit 1; }; \
	done
	@echo OK

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. The demo's packages are part of the developer's, at the
# same versions, so that both share one folder.

$(PY):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	    sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	    "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is %d.%d: " % v + \
	    "call make with PYTHON=/path/to/python3.11")'
	@echo "making the environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -f $(PY); exit 1; }

$(VENV)/.demo: requirements/demo.lock $(PROJECT) | $(PY)
	@echo "installing the packages of requirements/demo.lock ..."
	@$(INSTALL) --only-binary=:all: -r requirements/demo.lock
	@echo "installing keras_mgrade itself ..."
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(PROJECT) | $(PY)
	@echo "installing the packages of requirements/dev.lock ..."
	@$(INSTALL) --only-binary=:all: -r requirements/dev.lock
	@echo "installing $(TORCH) ..."
	@$(INSTALL) $(TORCH) 2>/dev/null \
	    || { echo "not found as pip is configured, trying $(TORCH_INDEX) ..."; \
	         $(INSTALL) --index-url $(TORCH_INDEX) $(TORCH); }
	@echo "installing keras_mgrade itself ..."
	@$(INSTALL) --no-build-isolation -e .
	@touch $(VENV)/.demo $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.dev
	@echo "installing the peers of requirements/bench.txt ..."
	@$(INSTALL) -r requirements/bench.txt
	@touch $@
