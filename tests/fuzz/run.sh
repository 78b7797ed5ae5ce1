#!/bin/sh
# tests/fuzz/run.sh TARGET [SECONDS]: builds a fuzz target with libFuzzer's instrumentation and runs it.
set -eu
cd "$(dirname "$0")"
target=${1:?which target: stdin, prev_result or egress}
seconds=${2:-60}
# What cargo-fuzz passes, less the address sanitizer: there is no unsafe code of ours.
flags='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, build scripts and macros are built without the flags.
RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" cargo build --locked --release --target "$host" --bin "$target"
mkdir -p "corpus/$target" artifacts
exec "${CARGO_TARGET_DIR:-target}/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -max_len=8192 -print_final_stats=1 -artifact_prefix="artifacts/$target-" "corpus/$target" "seeds/$target"
