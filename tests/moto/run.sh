#!/usr/bin/env bash
# The moto ring: the client code of host/cloud against moto, an independent double of EC2 (docs/moto.md).
# Needs python3 with venv and, on its first run, a PyPI index. Without them it is skipped, loudly.
set -euo pipefail
cd "$(dirname "$0")/../.."

moto='moto[ec2,server]==5.2.1'
venv=${CARGO_TARGET_DIR:-target}/moto-venv

skip() {
    echo "SKIPPED: moto ring: $1"
    exit 0
}

if ! command -v "$venv/bin/moto_server" >/dev/null; then
    command -v python3 >/dev/null || skip "python3 is not installed"
    rm -rf "$venv"
    python3 -m venv "$venv" || skip "python3 cannot make a virtual environment (Debian: apt-get install python3-venv)"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$moto" || skip "pip cannot install $moto"
fi

port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
log=$(mktemp)
"$venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$log"' EXIT

for _ in $(seq 150); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    if ! kill -0 "$server" 2>/dev/null; then
        cat "$log"
        echo "moto_server ended before it answered" >&2
        exit 1
    fi
    sleep 0.2
done

RESERVOIR_MOTO_URL="http://127.0.0.1:$port" cargo test --locked --workspace --test moto -- --nocapture "$@"
