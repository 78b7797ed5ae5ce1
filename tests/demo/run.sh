#!/usr/bin/env bash
# The demo (tests/ring/src/demo). `make demo` builds what it needs first; with --check the mode alone is looked at, before
# that. MODE names the mode, and tests/ring/src/demo/modes.rs what it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${MODE:-secondary}
modes=$(sed -n 's/^        name: "\(.*\)",$/\1/p' tests/ring/src/demo/modes.rs | paste -sd' ')
case " $modes " in
*" $mode "*) ;;
*)
    echo "demo: MODE=$mode does not exist; there is MODE=${modes// /|}" >&2
    exit 2
    ;;
esac
[ "${1:-}" != --check ] || exit 0
export RING_BINARIES="${CARGO_TARGET_DIR:-$PWD/target}/debug" RING_PLUGIN="${CARGO_TARGET_DIR:-$PWD/target}/cni/aws-cni"
exec "$RING_BINARIES/demo" --mode "$mode"
