#!/usr/bin/env bash
# The demo (tests/ring/src/demo). `make demo` builds what it needs first. MODE: secondary-ip is all there is so far.
set -euo pipefail
cd "$(dirname "$0")/../.."
export RING_BINARIES="${CARGO_TARGET_DIR:-$PWD/target}/debug" RING_PLUGIN="${CARGO_TARGET_DIR:-$PWD/target}/cni/aws-cni"
exec "${CARGO_TARGET_DIR:-target}/debug/demo" --mode "${MODE:-secondary-ip}"
