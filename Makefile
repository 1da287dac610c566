# `make run` starts everything; `make test` tries everything. `make` alone lists the rest.
# All paths are relative, so a checkout may lie in a folder with spaces in its name.

PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/.ready
CODEGEN := .venv-codegen/bin
UV_VERSION := 0.13.9

.DEFAULT_GOAL := help
.PHONY: help run test demo bench check format generate clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(ENV) ## Start everything on this machine: PostgreSQL, migrations, keys, the server
	@exec $(BIN)/sixfold dev

test: $(ENV) ## Run all tests on a throwaway PostgreSQL (DOOR=envoy: servers behind Envoy)
	@SIXFOLD_TEST_DOOR=$(or $(DOOR),grpcio) $(BIN)/python -m pytest $(ARGS)

demo: $(ENV) ## Three processes, one Postgres: kill one, and see that nobody notices
	@$(BIN)/python docs/demo.py

bench: $(ENV) ## Measure, next to a bare echo, pgbench and raw argon2 (ARGS=--quick: two minutes)
	@$(BIN)/python -m bench $(ARGS)

check: $(ENV) ## Format, lint, types, import contract, protos, generated files; no database
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports
	@cd protos && ../$(BIN)/buf lint
	@cd protos && ../$(BIN)/buf format --exit-code --diff --path sixfold
	@$(MAKE) --no-print-directory fresh
	@echo "make check: all good"

.PHONY: fresh
fresh: $(ENV) .venv-codegen/.ready
	@rm -rf .fresh && mkdir .fresh
	@$(MAKE) --no-print-directory stubs OUT=.fresh
	@for file in $$(cd .fresh && find . -type f); do \
		cmp -s ".fresh/$$file" "clients/python/$$file" \
		|| { echo "clients/python/$$file is stale: run make generate"; exit 1; }; done
	@rm -rf .fresh
	@$(BIN)/python docs/generate.py --check

format: $(ENV) ## Format the code and the protos
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .
	@cd protos && ../$(BIN)/buf format --write --path sixfold

generate: $(ENV) .venv-codegen/.ready ## Make the generated code and the generated docs anew
	@$(MAKE) --no-print-directory stubs OUT=clients/python
	@$(BIN)/python -m service.rpc.descriptors
	@$(BIN)/python docs/generate.py

.PHONY: stubs
stubs:
	@$(CODEGEN)/python -m grpc_tools.protoc -I protos \
		--plugin=protoc-gen-mypy_grpc=$(CODEGEN)/protoc-gen-mypy_grpc \
		--python_out=$(OUT) --pyi_out=$(OUT) \
		--grpc_python_out=$(OUT) --mypy_grpc_out=quiet:$(OUT) \
		$$(cd protos && find sixfold/auth sixfold/data -name '*.proto')
	@$(CODEGEN)/python -m grpc_tools.protoc -I protos --python_out=$(OUT) --pyi_out=$(OUT) \
		sixfold/errors/v1/errors.proto buf/validate/validate.proto

clean: ## Remove the environments and all data of `make run`
	rm -rf .venv .venv-codegen .fresh .sixfold

# The environment: exactly what uv.lock says, by uv, which is fetched into it when it is not there.
$(ENV): pyproject.toml uv.lock clients/python/pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing: install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $$($(PYTHON) --version) is too old: Sixfold needs 3.11 or newer (make PYTHON=python3.12 …)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "make: Python's venv module is missing: sudo apt install python3-venv"; exit 1; }
	@echo "making the environment …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv sync --frozen --quiet
	@touch $@

.venv-codegen/.ready: protos/pyproject.toml protos/uv.lock $(ENV)
	@cd protos && UV_PROJECT_ENVIRONMENT=../.venv-codegen ../$(BIN)/uv sync --frozen --quiet
	@touch $@
