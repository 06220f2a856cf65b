# What the project's people type. Each target installs, on Debian and Ubuntu, what it needs.
#   make test      the tests that need no root, then, for root, the lab in namespaces and containers
#   make test-vm   the lab on netem, in a virtual machine whose kernel has sch_netem
#   make bench     experiments/peers.toml: adaptive beside aria2c, curl, wget2, lftp and Python; benches/ has more
#   make lint      formatting, clippy, shellcheck

SHELL := /bin/bash
export PATH := $(PATH):/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.PHONY: build test test-user test-root test-vm bench lint

build:
	@tests/setup/packages.sh base
	cargo build --release --locked

# The second tier runs also when the first failed, so that one run tells all.
test:
	@code=0; $(MAKE) --no-print-directory test-user || code=1; \
	if [ "$$(id -u)" -eq 0 ]; then \
	    $(MAKE) --no-print-directory test-root || code=1; \
	elif [ -n "$$CI" ]; then \
	    echo "make test: not root, so tests/root did NOT run; with CI set that is a failure"; code=1; \
	else \
	    echo "make test: not root, so tests/root did NOT run; to run it: sudo env PATH=\"\$$PATH\" make test-root"; \
	fi; \
	exit $$code

# Nextest is quicker where it is installed, and leaves the examples in the documentation to cargo. Most tests
# wait for links, so that two for each processor run side by side.
test-user: build
	@tests/setup/packages.sh base
	@echo "== tests that need no root"
	@if command -v cargo-nextest >/dev/null; then \
	    export TWINLINK_BIN=$(CURDIR)/target/release/twinlink; cargo nextest run --locked --no-fail-fast --test-threads $$((2 * $$(nproc))) && cargo test --locked --doc; \
	else \
	    cargo test --locked --no-fail-fast; \
	fi

test-root: build
	@tests/setup/packages.sh root peers compose browser
	@echo "== tests that need root: network namespaces and docker compose"
	@tests/run.sh tests/root

test-vm: build
	@echo "== tests that need sch_netem: in a virtual machine"
	@tests/setup/packages.sh root
	@tests/setup/vm.sh run tests/run.sh tests/vm

# A program that reaches its time limit is a result, and the table says so.
bench: build
	@tests/setup/packages.sh root peers
	@folder=target/bench/peers-$$(date -u +%Y%m%dT%H%M%SZ); mkdir -p $$folder; \
	target/release/twinlink lab --exec target/release/twinlink sweep $(or $(EXPERIMENT),experiments/peers.toml) --results $$folder; \
	target/release/twinlink report $$folder

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings
	@if command -v shellcheck >/dev/null; then \
	    echo "shellcheck of every script"; \
	    git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck; \
	else \
	    echo "make lint: shellcheck is not installed, so the scripts were NOT checked"; \
	fi
