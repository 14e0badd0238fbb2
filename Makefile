# The words of this project. `make demo` and `make test` do all the set-up on a fresh machine.
#
#   make setup   the environment in .venv (PYTHON=python3.12 chooses the interpreter, 3.10 to 3.13)
#   make demo    a cluster on loopback, and what one does with it
#   make test    every test that runs at each commit        make test-slow   those that take longer
#   make test-arm    the node on emulated arm64 and armhf (root, qemu-user-static, mmdebstrap)
#   make check   format, lint, types, architecture          make fmt         put the format right
#   make bench   the figures, beside their peers
#   make deb     Debian packages in build/deb (needs dpkg-dev, debhelper, dh-python)
#   make guard   has CPU per handshake or memory grown by more than a tenth?

.PHONY: setup demo test test-slow test-arm check fmt bench guard deb clean

# Byte code matters for what we measure: without it an import costs seconds and megabytes.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

setup: $(READY)

$(READY): pyproject.toml tools/setup_environment.sh
	sh tools/setup_environment.sh $(VENV)
	touch $@

demo: setup
	@$(BIN)/python demo/demo.py

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "slow and not emulated"

test-arm: setup
	$(BIN)/python -m pytest -n $(WORKERS) -m emulated

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m bench

guard: setup
	$(BIN)/python -m bench.guard

deb:
	sh packaging/debian/build.sh

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
