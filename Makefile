# The words of this project. `make demo` and `make test` do all the set-up on a fresh machine.
#
#   make setup   the environment in .venv (PYTHON=python3.12 chooses the interpreter, 3.10 to 3.13)
#   make demo    a cluster on loopback, and what one does with it
#   make web     the proxy's web page, built from web/ (needs Node.js 18+ and npm)
#   make test-web    the page in a real browser (chromium), after its types were checked
#   make test    every test that runs at each commit        make test-slow   those that take longer
#   make test-arm    the node on emulated arm64 and armhf (root, qemu-user-static, mmdebstrap)
#   make test-musl   what asks the C library for something, on a Python on musl, as OpenWrt has it (gcc, tcl; minutes)
#   make check   format, lint, types, architecture, figures in the docs current    make fmt    put the format right
#   make bench   the figures, beside their peers
#   make deb     Debian packages in build/deb (needs dpkg-dev, debhelper, dh-python)
#   make guard   has CPU per handshake or memory grown by more than a tenth?

.PHONY: setup demo web test test-slow test-arm test-musl test-web check fmt bench guard deb clean

# Byte code matters for what we measure: without it an import costs seconds and megabytes.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests wait half of their time, for processes to start and to end: two workers for each processor.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n > 4 ? 8 : 2 * n)))

setup: $(READY)

$(READY): pyproject.toml tools/setup_environment.sh
	sh tools/setup_environment.sh $(VENV)
	touch $@

demo: setup
	@sh tools/build_page.sh --if-possible
	@$(BIN)/python demo/demo.py

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow and not web"

test-slow: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "slow and not emulated and not web"

test-arm: setup
	$(BIN)/python -m pytest -n $(WORKERS) -m emulated

# The node's own tests, and the node as OpenWrt has it.
test-musl: setup
	sh tools/musl_python.sh build/musl
	build/musl/env/bin/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow" \
		tests/core tests/host tests/link tests/node tests/packaging/test_openwrt_node.py

web:
	sh tools/build_page.sh

$(VENV)/.web-ready: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[web-test]'
	touch $@

# Browsers do not wait: two keep two processors busy.
test-web: $(VENV)/.web-ready web
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/web

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_documents.py
	$(BIN)/python -m bench.pages --check

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
	rm -rf $(VENV) build dist *.egg-info web/node_modules tinyport/proxy/page .mypy_cache .ruff_cache .pytest_cache .hypothesis
