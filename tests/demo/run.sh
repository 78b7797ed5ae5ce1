#!/usr/bin/env bash
# The demo (tests/ring/src/demo). `make demo` builds what it needs first; with --check only what can be
# said before that is looked at. MODE names the mode, and tests/ring/src/demo/modes.rs what it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${MODE-secondary}
modes=$(sed -n 's/^        name: "\(.*\)",$/\1/p' tests/ring/src/demo/modes.rs | paste -sd' ')
case " $modes " in
*" $mode "*) ;;
*)
    echo "demo: MODE=$mode does not exist; there is MODE=${modes// /|}" >&2
    exit 2
    ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    echo "demo: it makes network namespaces and needs root: sudo make demo" >&2
    exit 2
fi
[ "${1:-}" != --check ] || exit 0
export RING_BINARIES="${CARGO_TARGET_DIR:-$PWD/target}/debug" RING_PLUGIN="${CARGO_TARGET_DIR:-$PWD/target}/cni/aws-cni"
exec "$RING_BINARIES/demo" --mode "$mode"
