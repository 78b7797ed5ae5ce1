#!/usr/bin/env bash
# The demo (tests/ring/src/demo). `make demo` builds what it needs first. MODE: secondary-ip is all there is so far.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${CARGO_TARGET_DIR:-target}/debug/demo" --mode "${MODE:-secondary-ip}"
