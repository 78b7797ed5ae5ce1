#!/bin/sh
# Builds the policy components: the built-in one, the adaptive one and the examples, each to a policy.wasm beside its source.
#
#   policies/build.sh            all of them
#   policies/build.sh default    one, by the name of its directory: default, adaptive or an example
#   OUT=DIR policies/build.sh    writes DIR/NAME.wasm instead, to compare with what is committed
#
# Needs `rustup target add wasm32-wasip2`. The lock files and rust-toolchain.toml pin what goes in, and nothing of the path
# of the tree or of the machine does: each component comes out the same, byte for byte, in every directory.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT"
    OUT=$(cd "$OUT" && pwd)
fi
cd "$root"
target_dir=${CARGO_TARGET_DIR:-$root/target}
case $target_dir in /*) ;; *) target_dir=$root/$target_dir ;; esac

names="default adaptive"
for manifest in policies/examples/*/Cargo.toml; do
    names="$names $(basename "$(dirname "$manifest")")"
done
wanted=${1:-$names}
case " $names " in
*" $wanted "* | " $wanted ") ;;
*)
    echo "policies/build.sh: no policy is called \"$wanted\"; there are: $names" >&2
    exit 2
    ;;
esac

build() { # name, file name of the component, directory, profile's directory, cargo arguments
    name=$1 file=$2 dir=$3 profile=$4
    shift 4
    # The examples' SDK lies outside of their own workspace: without the wrapper its path would name and order functions.
    RESERVOIR_ROOT=$root RUSTC_WRAPPER=$root/policies/rustc.sh \
        CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS="--remap-path-prefix=$root=reservoir \
--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
        cargo build --locked --quiet --target wasm32-wasip2 --target-dir "$target_dir" "$@"
    out=${OUT:+$OUT/$name.wasm}
    out=${out:-$dir/policy.wasm}
    cp "$target_dir/wasm32-wasip2/$profile/$file" "$out"
    echo "$out: $(wc -c <"$out") bytes"
}

for name in $wanted; do
    case $name in
    default | adaptive)
        build "$name" "reservoir_policy_$name.wasm" "policies/$name" policy -p "reservoir-policy-$name" --profile policy
        ;;
    *)
        dir=policies/examples/$name
        build "$name" "$(echo "$name" | tr - _).wasm" "$dir" release --release --manifest-path "$dir/Cargo.toml"
        ;;
    esac
done
