#!/bin/sh
# Builds the CNI plugins, each as one static binary: target/cni/aws-cni, target/cni/egress-cni. With names: those alone.
# glibc's static libraries (libc6-dev on Debian, glibc-static on Fedora) are enough; no musl target is needed. The plugins
# resolve no host or user names, which is all that glibc cannot do statically.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- aws-cni egress-cni
for plugin in "$@"; do
    # "rustc" and not RUSTFLAGS: the flags are for the binary only.
    cargo rustc --locked -p "$plugin" --bin "$plugin" --profile cni -- -C target-feature=+crt-static -C relocation-model=static
    binary="${CARGO_TARGET_DIR:-target}/cni/$plugin"
    if command -v ldd >/dev/null && ldd "$binary" >/dev/null 2>&1; then
        echo "$0: $binary is not static" >&2
        exit 1
    fi
    echo "$binary: $(wc -c <"$binary") bytes"
done
