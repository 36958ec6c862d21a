# Everything a person does with the project: `make` lists it. Needs Python 3.11 or newer; up, image and parts of test need Docker.
PYTHON ?= python3
VENV := .venv/bin/python
CTL := .venv/bin/astromeshctl
UV_COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url

.DEFAULT_GOAL := help
.PHONY: help setup run up down check test lint image mesh-watch whatsapp-demo sim bench bench-mesh bench-rag bench-quality lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.dev $(CTL) ## build .venv from the locks, with everything that tests need

run: .venv/.runtime $(CTL) ## run a full node without Docker, on http://127.0.0.1:8000
	@ASTROMESH_HOST=$${ASTROMESH_HOST:-127.0.0.1} ./entrypoint.sh

up: ## build the image and run gateway, worker and inference node in containers
	docker compose up --build

down: ## stop them; their data stays
	docker compose down

check: .venv/.dev ## run the fast suite (under two minutes)
	@$(VENV) tests/run.py fast

test: .venv/.dev ## run everything that can run here, and say what could not
	@$(VENV) tests/run.py

lint: .venv/.dev ## check style, types and shell scripts
	@$(VENV) tests/run.py lint

image: ## build the image astromesh:latest
	docker compose build gateway

mesh-watch: .venv/.runtime $(CTL) ## show the members of the mesh, drawn anew every second; URL=… names the node to ask
	@$(CTL) mesh watch $(if $(URL),--url $(URL))

whatsapp-demo: .venv/.dev ## talk to an agent as on WhatsApp, without an account: a node and a Graph API of our own
	@$(VENV) -m tests.services.channels.demo

sim: .venv/.dev ## simulate the mesh in virtual time; SEEDS=1000 says how many scenarios, FIRST=7 from which on
	@$(VENV) -m tests.mesh.sim --seeds $(or $(SEEDS),100) --first $(or $(FIRST),0)

bench: .venv/.dev ## measure, and print the table of bench/README.md
	@$(VENV) -m bench

bench-mesh: .venv/.dev ## measure the mesh next to serf and kinship; MINUTES=10 says how long beside busy cores
	@$(VENV) -m bench.mesh --minutes $(or $(MINUTES),1)

bench-rag: .venv/.dev ## measure the store of rag next to plain FTS5 and NumPy
	@$(VENV) -m bench.rag

bench-quality: .venv/.bench ## measure what searches find, with 84 MB of model; DOCS=… is a folder of Python's documentation as HTML
	@$(VENV) -m bench.quality $(if $(DOCS),--docs $(DOCS))

lock: .venv/.dev ## resolve the locks anew from pyproject.toml; UPGRADE=1 takes newer versions
	$(UV_COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.lock
	$(UV_COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --all-extras -c requirements.lock -o requirements-all.lock
	$(UV_COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --all-extras --group dev -c requirements-all.lock -o requirements-dev.lock
	$(UV_COMPILE) $(if $(UPGRADE),--upgrade) --no-deps --group bench -o requirements-bench.lock

# A link, so that it is the checkout's own command wherever it is called from.
$(CTL): | .venv/bin/python
	@ln -sf ../../app/cli/astromeshctl $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.runtime: requirements.lock | .venv/bin/python
	$(VENV) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.runtime
	$(VENV) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# Without what they depend on: see the group in pyproject.toml.
.venv/.bench: requirements-bench.lock .venv/.dev
	$(VENV) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-bench.lock
	@touch $@
