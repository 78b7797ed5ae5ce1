# The two commands of a newcomer are `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VECTORS ?= tests/vectors

.PHONY: help setup build plugin demo test check rings conformance bench scenarios policies fmt doc clean

help:
	@echo 'make demo          the main job on the simulated AWS: pods get VPC addresses (root);'
	@echo '                   MODE=secondary|prefix|custom|ipv6|multinic|discovery'
	@echo 'make test          format, lints, every test ring, docs'
	@echo 'make build         all programs and tests, into target/debug, and the plugins (make plugin)'
	@echo 'make plugin        the two CNI plugins alone: small static binaries'
	@echo 'make conformance   run vectors: VECTORS=DIR (default tests/vectors)'
	@echo 'make bench         the figures, each beside its floor (root; release build)'
	@echo 'make scenarios     a day of each workload under each policy, scored (release build)'
	@echo 'make policies      rebuild the committed .wasm components (needs the wasm32-wasip2 target)'
	@echo 'make check         format and lints alone; make fmt: format'
	@echo 'make doc           the API pages of rustdoc, warnings are errors'
	@echo 'make rings         the test rings alone: RING=unit|conformance|policy|sim|pool|kernel|e2e|moto|cnitool|vlan'
	@echo 'make setup         install what the above need'
	@echo 'make clean         remove what was built'

setup:
	@tests/setup.sh

# One selection of packages for all that is built, so that features are unified once and nothing is built twice.
build: plugin
	cargo build --locked --workspace --all-targets

plugin: setup
	cni/build.sh

demo:
	@tests/demo/run.sh --check
	@$(MAKE) --no-print-directory plugin
	cargo build --locked --workspace --all-targets
	tests/demo/run.sh

fmt: setup
	cargo fmt --all

check: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

rings:
	@tests/rings.sh --check $(RING)
	@$(MAKE) --no-print-directory build
	tests/rings.sh $(RING)

# The rings come last, so that their table is what is seen at the end.
test: check doc rings

doc: setup
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --locked --workspace --no-deps --document-private-items

conformance: setup
	cargo build --locked --workspace --all-targets
	RUST_LOG=off $${CARGO_TARGET_DIR:-target}/debug/conformance $(VECTORS)

bench: setup plugin
	cargo build --locked --release -p reservoir-ipamd -p reservoir-sim -p bench --bins
	$${CARGO_TARGET_DIR:-target}/release/bench

scenarios: setup
	cargo run --locked --quiet --release -p policy-test -- scenarios

policies: setup
	policies/build.sh

clean:
	cargo clean
