#!/bin/sh
# Builds the policy components: the built-in one, the adaptive one and the examples, each to a policy.wasm beside its source.
#
#   policies/build.sh            all of them
#   policies/build.sh default    one, by the name of its directory: default, adaptive or an example
#   OUT=DIR policies/build.sh    writes DIR/NAME.wasm instead, to compare with what is committed
#
# Needs `rustup target add wasm32-wasip2`. The lock files and rust-toolchain.toml pin what goes in, and no path of the
# machine is kept: the built-in and the adaptive component come out the same, byte for byte, on every machine. (The examples do where the
# tree lies at the same path: their SDK is outside of their own workspace, so its path orders their functions.)
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
target_dir=${CARGO_TARGET_DIR:-$root/target}

build() { # name, file name of the component, directory, cargo arguments
    name=$1 file=$2 dir=$3
    shift 3
    # shellcheck disable=SC2086 # flags are words
    CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS="--remap-path-prefix=$root=reservoir \
--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
        cargo build --locked --quiet --target wasm32-wasip2 --target-dir "$target_dir" "$@"
    out=${OUT:+$OUT/$name.wasm}
    out=${out:-$dir/policy.wasm}
    cp "$target_dir/wasm32-wasip2/$profile/$file" "$out"
    echo "$out: $(wc -c <"$out") bytes"
}

wanted=${1:-all}
for name in default adaptive; do
    if [ "$wanted" = all ] || [ "$wanted" = "$name" ]; then
        profile=policy
        build "$name" "reservoir_policy_$name.wasm" "policies/$name" -p "reservoir-policy-$name" --profile policy
    fi
done
for dir in policies/examples/*/; do
    name=$(basename "$dir")
    [ -f "$dir/Cargo.toml" ] || continue
    if [ "$wanted" = all ] || [ "$wanted" = "$name" ]; then
        profile=release
        build "$name" "$(echo "$name" | tr - _).wasm" "${dir%/}" --release --manifest-path "$dir/Cargo.toml"
    fi
done
