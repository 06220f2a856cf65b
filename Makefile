# What the project's people type. Each target installs, on Debian and Ubuntu, what it needs.
#   make test      rules, servers on loopback, labs in namespaces and, for root, in containers
#   make test-vm   the lab on netem, in a virtual machine whose kernel has sch_netem
#   make bench     experiments/peers.toml: adaptive beside aria2c, curl, wget2, lftp and Python; benches/ has more
#   make lint      formatting, clippy, shellcheck

SHELL := /bin/bash
export PATH := $(PATH):/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.PHONY: build test test-vm bench lint

build:
	@tests/setup/packages.sh base
	cargo build --release --locked

# Most tests wait for links, so that four for each processor run side by side; those that measure have the machine
# to themselves. An ordinary user runs the labs in user namespaces. With nextest each test has a line and its
# seconds; it leaves the examples in the documentation to cargo.
test: build
	@tests/setup/packages.sh base
	@if [ "$$(id -u)" -eq 0 ]; then tests/setup/packages.sh root peers compose players browser; fi
	@export TWINLINK_BIN=$(CURDIR)/target/release/twinlink; threads=$$((4 * $$(nproc))); \
	if command -v cargo-nextest >/dev/null; then \
	    code=0; \
	    cargo nextest run --locked --no-fail-fast --test-threads "$$threads" || code=1; \
	    cargo test --locked --doc || code=1; \
	    exit $$code; \
	fi; \
	cargo test --locked --no-fail-fast -- --test-threads "$$threads"

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
