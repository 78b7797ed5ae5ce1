#!/bin/sh
# rustc, for policies/build.sh: crates of this tree are told apart by name and not by where the tree lies.
set -eu
case ${CARGO_MANIFEST_DIR:-} in
"$RESERVOIR_ROOT"/*) ;;
*) exec "$@" ;;
esac
for arg in "$@"; do
    shift
    case $arg in metadata=*) arg=metadata=reservoir ;; esac
    set -- "$@" "$arg"
done
exec "$@"
