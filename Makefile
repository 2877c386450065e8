# orderflow on this machine: needs Python 3.11-3.13 and make, nothing else. `make` alone lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Variables that would make pip, uv or Python install elsewhere, or find other modules than ours. Those that say where packages
# come from (PIP_INDEX_URL, PIP_CERT, proxies …) are kept.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN PIP_CONSTRAINT PIP_REQUIREMENT PIP_EDITABLE \
	PIP_NO_BINARY PIP_ONLY_BINARY PIP_NO_DEPS PIP_IGNORE_INSTALLED PIP_REQUIRE_VIRTUALENV PIP_QUIET PIP_REPORT \
	UV_PYTHON UV_SYSTEM_PYTHON UV_PROJECT_ENVIRONMENT UV_CONSTRAINT UV_OVERRIDE UV_NO_BINARY UV_EXCLUDE_NEWER \
	PYTHONPATH PYTHONHOME PYTHONUSERBASE PYTHONSTARTUP PYTHONINSPECT PYTHONOPTIMIZE VIRTUAL_ENV

# The first interpreter that fits; `make PYTHON=/path/to/python3.13 up` sets another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo "$$p"; break; }; \
	done)
VENV := .venv
BIN := $(VENV)/bin
# Marks the installation of these packages in this folder: after a move of the clone or a change of a lock, install again.
READY := $(VENV)/.installed-$(shell { pwd; cat requirements/dev.txt pyproject.toml; } | cksum | cut -d' ' -f1)

# PyPI's JSON API lists the known vulnerabilities of each package; its source is https://osv.dev.
ADVISORIES := https://pypi.org/pypi
AUDITED := requirements/runtime.txt requirements/cli.txt requirements/dev.txt

.PHONY: help up down status demo test bench logs faults lint audit clean reset install

help: ## Show this
	@echo "orderflow: one order business under several workflows, on real parts, on this machine."
	@echo
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Start with  make up  and then  make demo.  Settings are variables, here or in .env:"
	@echo "  WORKFLOW_MODE=orchestration make up     switches the running system"
	@echo "  EVENT_BUS=eventbridge make up           events over EventBridge instead of SNS"
	@echo "  ORDER_PORT=9001 make up                 another port; .env.example lists all settings"

up: install ## Start everything, or apply changed settings; first time about 2 minutes
	@$(BIN)/orderflow up

down: ## Stop everything; data is kept
	@if [ -x $(BIN)/orderflow ]; then $(BIN)/orderflow down; else echo "Nothing is installed here, so nothing is running."; fi

status: install ## Show every part: state, process, port
	@$(BIN)/orderflow status || [ $$? -eq 3 ]

demo: install ## Real orders through every workflow, step by step (starts the system if need be)
	@$(BIN)/orderflow demo

logs: install ## Follow the logs of all parts
	@$(BIN)/orderflow logs --follow

test: install ## Tests, unit to end to end, beside a running system (not full sizes, not containers); about 17 minutes on two cores
	@$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder

faults: install ## The fault matrix, full size; ARGS="--quick", "--row 7", "--workflow hybrid", "--seed 3" for a part
	@$(BIN)/python -m tests.faults $(ARGS)

bench: install ## Measure orderflow against the bare loop, in several rounds
	@$(BIN)/orderflow bench

lint: install ## Run the style, type and import checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m deploy.stack.render --check

# A package that the API has no answer for is a failure (--strict), never a pass.
audit: install ## Check the locked packages for known vulnerabilities (asks pypi.org)
	@$(BIN)/python -c "import urllib.request as http; http.urlopen('$(ADVISORIES)/flask/3.1.0/json', timeout=20)" 2>/dev/null || { \
		echo "Nothing was audited: $(ADVISORIES), which knows the vulnerabilities, does not answer from here." >&2; \
		echo "Try again on another network; ci runs it too (.github/workflows/ci.yml)." >&2; exit 2; }
	@$(BIN)/uvx --quiet --from pip-audit==2.10.1 pip-audit --strict --disable-pip --require-hashes \
		$(foreach lock,$(AUDITED),-r $(lock))

reset: install ## Delete all data (asks)
	@$(BIN)/orderflow reset

clean: down ## Remove what was installed and built, including images; data is kept
	@if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then \
		docker compose --profile cli config --images | grep '^orderflow/' | sort -u | while read -r image; do \
			docker image rm "$$image" >/dev/null 2>&1 && echo "Removed the image $$image." || :; done; fi
	@rm -rf $(VENV) .orderflow/venv-localstack* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

install: $(READY) # quick if nothing changed
	@$(BIN)/python -c '' 2>/dev/null || { \
		echo "The interpreter of $(VENV) is gone. Install again: rm -rf $(VENV) && make up" >&2; exit 1; }

# uv reads neither pip.conf nor PIP_INDEX_URL, PIP_CERT, …: where packages come from there, pip installs them.
$(READY):
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 found (looked for python3, python3.13, python3.12, python3.11, python)." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.13 up" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13. Name one that is: make PYTHON=/path/to/python3.13 up" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) can't make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing orderflow's packages into $(VENV) (once, about 450 MB) …"
	@[ "$$(cat $(VENV)/.folder 2>/dev/null || pwd)" = "$$(pwd)" ] && $(BIN)/python -c '' 2>/dev/null || rm -rf $(VENV)
	@rm -f $(VENV)/.installed-*
	@"$(PYTHON)" -m venv $(VENV) && pwd > $(VENV)/.folder
	@awk '/^uv==/ { found = 1 } found { print } found && !/\\$$/ { exit }' requirements/dev.txt > $(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --no-user --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt \
		&& $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt \
		&& $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . \
	|| { echo "uv can't install here; trying pip, which takes longer …"; \
		$(BIN)/python -m pip install --quiet --no-user --disable-pip-version-check --require-hashes -r requirements/dev.txt \
		&& $(BIN)/python -m pip install --quiet --no-user --disable-pip-version-check --no-deps --no-build-isolation -e .; } \
	|| { echo "The packages couldn't be installed; pip says why, above. If it found no package, check the network and the package" \
		"index (PIP_INDEX_URL)." >&2; exit 1; }
	@touch $@
