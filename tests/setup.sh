#!/usr/bin/env bash
# Installs what building, testing and the demo need, and says what it installed. Says clearly what it cannot get.
# Whatever is there already is not touched; a second run does nothing.
set -euo pipefail

missing_packages=()
need() { # program package
    command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || missing_packages+=("$2")
}
need gcc gcc
need /usr/include/stdio.h libc6-dev
need ip iproute2
need iptables iptables
need nft nftables
need ipset ipset
need conntrack conntrack
need curl curl
need jq jq
need tcpdump tcpdump
need ping iputils-ping
need nc netcat-openbsd
# The ring vlan boots a kernel of its own; its package is downloaded by that ring and not installed.
if [ "$(uname -m)" = x86_64 ]; then
    need qemu-system-x86_64 qemu-system-x86
    need cpio cpio
fi
need /usr/lib/cni/portmap containernetworking-plugins

if [ ${#missing_packages[@]} -gt 0 ]; then
    list=$(printf '%s\n' "${missing_packages[@]}" | sort -u | tr '\n' ' ')
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: missing, and only root can install them: $list(tests that need them will be skipped)" >&2
    elif ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: missing, and there is no apt-get to install them: $list(tests that need them will be skipped)" >&2
    else
        log=$(mktemp)
        # shellcheck disable=SC2086 # a list of words
        if apt-get update >"$log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $list >>"$log" 2>&1; then
            echo "setup: installed Debian packages: $list"
            rm -f "$log"
        else
            tail -n 5 "$log" >&2
            echo "setup: could not install: $list(the whole log: $log)" >&2
            exit 1
        fi
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: cargo is missing; install Rust 1.95 with rustup (the file rust-toolchain.toml names the version)" >&2
    exit 1
fi
if command -v rustup >/dev/null 2>&1; then
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    if ! rustup toolchain list | grep -q "^$channel"; then
        rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt
        echo "setup: installed the Rust toolchain $channel"
    fi
    for component in clippy rustfmt; do
        if ! rustup component list --installed | grep -q "^$component"; then
            rustup component add "$component"
            echo "setup: installed the Rust component $component"
        fi
    done
    if ! rustup target list --installed | grep -qx wasm32-wasip2; then
        if rustup target add wasm32-wasip2 >/dev/null 2>&1; then
            echo "setup: installed the Rust target wasm32-wasip2"
        else
            echo "setup: the Rust target wasm32-wasip2 cannot be installed; tests that rebuild components will be skipped" >&2
        fi
    fi
fi
