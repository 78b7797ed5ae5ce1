#!/usr/bin/env bash
# Installs what building, testing and the demo need, and says what it installed. Says clearly what it cannot get.
# Whatever is there already is not touched; a second run does nothing.
set -euo pipefail

cd "$(dirname "$0")/.."

# What root runs is not in everybody's PATH.
search=$PATH
[ "$(id -u)" -eq 0 ] || search+=:/usr/local/sbin:/usr/sbin:/sbin
has() { # program, or path of a file
    case $1 in
    /*) [ -e "$1" ] ;;
    *) PATH=$search type -P "$1" >/dev/null ;;
    esac
}
missing=()
missing_packages=()
need() { # program package
    has "$1" || { missing+=("$1") && missing_packages+=("$2"); }
}
need gcc gcc
need /usr/include/stdio.h libc6-dev
need ip iproute2
need iptables iptables
need nft nftables
need conntrack conntrack
need curl curl
need jq jq
need ping iputils-ping
# The ring vlan boots a kernel of its own; its package is downloaded by that ring and not installed.
if [ "$(uname -m)" = x86_64 ]; then
    need qemu-system-x86_64 qemu-system-x86
    need cpio cpio
fi
need /usr/lib/cni/portmap containernetworking-plugins

if [ ${#missing[@]} -gt 0 ]; then
    installed() { # packages; those of them that are there
        dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' || true
    }
    without="(nothing is built without gcc and libc6-dev, no ring runs without jq; tests that need the others are skipped)"
    mapfile -t wanted < <(printf '%s\n' "${missing_packages[@]}" | sort -u)
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: not found: ${missing[*]}; only root can install packages: ${wanted[*]} $without" >&2
    elif ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: not found: ${missing[*]}; there is no apt-get, install them as this system does $without" >&2
    else
        mapfile -t new < <(printf '%s\n' "${wanted[@]}" | grep -vxFf <(installed "${wanted[@]}"))
        log=$(mktemp)
        if [ ${#new[@]} -eq 0 ]; then
            :
        elif apt-get update >"$log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${new[@]}" >>"$log" 2>&1; then
            echo "setup: installed Debian packages: ${new[*]}"
        else
            tail -n 5 "$log" >&2
            echo "setup: could not install: ${new[*]} (the whole log: $log) $without" >&2
            exit 1
        fi
        rm -f "$log"
        for i in "${!missing[@]}"; do
            has "${missing[i]}" || echo "setup: ${missing[i]} is not found (PATH is $PATH), though its package ${missing_packages[i]} is installed" >&2
        done
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    # sudo takes the user's directories out of PATH; root's are often not in it either.
    home=${HOME:-}
    [ -z "${SUDO_USER:-}" ] || home=$(getent passwd "$SUDO_USER" | cut -d: -f6) || true
    if [ ! -x "$home/.cargo/bin/cargo" ]; then
        echo "setup: cargo is not in PATH; install Rust with rustup (rust-toolchain.toml names the version)" >&2
    elif [ -z "${SUDO_USER:-}" ]; then
        echo "setup: cargo is not in PATH, but there is $home/.cargo/bin/cargo. Put it there:" >&2
        echo "    export PATH=$home/.cargo/bin:\$PATH" >&2
    else
        echo "setup: sudo leaves $home/.cargo/bin/cargo out of PATH. Put it there, for make demo like this:" >&2
        # This PATH is root's: the caller's may lack what only root runs.
        echo "    sudo -H env PATH=$home/.cargo/bin:$PATH make demo" >&2
        echo "  Root gets a toolchain and crates in its own home then, and target/ is root's." >&2
    fi
    exit 1
fi
if command -v rustup >/dev/null 2>&1; then
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    has_line() { grep -c "$1" >/dev/null; } # reads to the end: rustup fails if nobody does
    if ! rustup toolchain list | has_line "^$channel"; then
        rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt
        echo "setup: installed the Rust toolchain $channel"
    fi
    for component in clippy rustfmt; do
        if ! rustup component list --installed | has_line "^$component"; then
            rustup component add "$component"
            echo "setup: installed the Rust component $component"
        fi
    done
    if ! rustup target list --installed | has_line '^wasm32-wasip2$'; then
        if rustup target add wasm32-wasip2 >/dev/null 2>&1; then
            echo "setup: installed the Rust target wasm32-wasip2"
        else
            echo "setup: the Rust target wasm32-wasip2 cannot be installed; tests that rebuild components will be skipped" >&2
        fi
    fi
fi
