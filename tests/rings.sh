#!/usr/bin/env bash
# Runs the test rings, from the fastest to the most real, and counts what each ran and skipped. A ring that cannot run
# says so with its reason; it never passes in silence. With a name: that ring alone; --check NAME looks at the name only.
set -uo pipefail
cd "$(dirname "$0")/.."

check=
[ "${1:-}" != --check ] || { check=1 && shift; }
only=$*
names='unit conformance policy sim pool kernel e2e moto cnitool vlan'
if [ -n "$only" ] && { [ $# -gt 1 ] || [[ " $names " != *" $only "* ]]; }; then
    echo "rings: there is no ring $only (one, or none for all); there are: $names" >&2
    exit 2
fi
[ -z "$check" ] || exit 0

# The rings run in a session of their own, which nothing that they start leaves. When this script is told to end, what is in
# that session is this run's and nobody else's; so are the network namespaces with the number of such a process in their names.
if [ -z "${RINGS_SESSION:-}" ]; then
    # env: a shell's background processes ignore Ctrl-C, and so would all that they start.
    RINGS_SESSION=1 env --default-signal=INT,QUIT setsid tests/rings.sh "$@" &
    session=$!
    processes() {
        sed -n "s/^\([0-9]*\) (.*) [^Z] [0-9]* [0-9]* $session .*/\1/p" /proc/[0-9]*/stat 2>/dev/null
    }
    end() { # exit status
        trap '' INT TERM HUP QUIT
        echo "rings: told to end; ending what this run started" >&2
        local seen left netns try
        seen=$(processes)
        # The simulated AWS takes its namespaces down when it is asked to end. Who has not ended after 4 s is not asked:
        # whoever cancels a run waits 10 s.
        # shellcheck disable=SC2086 # a list of words
        kill -TERM "$session" $seen 2>/dev/null
        for try in $(seq 30); do
            left=$(processes)
            [ -n "$left" ] || break
            seen+=" $left"
            # shellcheck disable=SC2086
            [ "$try" -le 20 ] || kill -KILL $left 2>/dev/null
            sleep 0.2
        done
        for netns in /run/netns/*; do
            netns=${netns##*/}
            if [[ $netns =~ ^(rsv|rsv-|rsv-cnitool-|r[bfnpv])([0-9]+)([^0-9]|$) ]] && grep -qwF "${BASH_REMATCH[2]}" <<<"$seen"; then
                ip netns del "$netns"
            fi
        done
        exit "$1"
    }
    trap 'end 129' HUP
    trap 'end 130' INT
    trap 'end 131' QUIT
    trap 'end 143' TERM
    wait "$session"
    exit
fi
export RING_BINARIES="${CARGO_TARGET_DIR:-$PWD/target}/debug" RING_PLUGIN="${CARGO_TARGET_DIR:-$PWD/target}/cni/aws-cni"
summary=()
failed=0
total_passed=0
total_failed=0
total_skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

ring() { # name, command...
    local name=$1
    shift
    [ -z "$only" ] || [ "$only" = "$name" ] || return 0
    # Who waits for this run was killed and could not end it.
    kill -0 "$PPID" 2>/dev/null || exit 1
    echo "=== ring $name"
    local status=0 begun=$SECONDS
    "$@" 2>&1 | tee "$log" || status=$?
    local passed bad skipped
    passed=$(sed -n 's/^test result: .* \([0-9]*\) passed;.*/\1/p; s/^ring-result: \([0-9]*\) passed.*/\1/p' "$log" | awk '{n+=$1} END {print n+0}')
    bad=$(sed -n 's/^test result: .*; \([0-9]*\) failed;.*/\1/p; s/^ring-result: .* \([0-9]*\) failed.*/\1/p' "$log" | awk '{n+=$1} END {print n+0}')
    skipped=$(grep -c 'SKIPPED:' "$log")
    if [ "$status" -ne 0 ]; then
        failed=1
        [ "$bad" -gt 0 ] || bad=1
    fi
    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + bad))
    total_skipped=$((total_skipped + skipped))
    summary+=("$(printf '%-12s %5d passed %3d failed %3d skipped %5d s' "$name" "$passed" "$bad" "$skipped" $((SECONDS - begun)))")
    while IFS= read -r line; do summary+=("             $line"); done < <(grep -ho 'SKIPPED:.*' "$log" | sort -u)
    # The list of names that ends the output of a test program.
    while IFS= read -r line; do summary+=("             FAILED: $line"); done < <(
        awk '/^failures:$/ { names = 1; next } /^test result: / { names = 0 } names && /^    [^ ]+$/ { print $1 }' "$log" | sort -u)
}

# mawk, Debian's awk, collects its input by the block unless it is told that somebody watches.
filter=(awk)
case $(awk -W version </dev/null 2>&1) in mawk*) filter+=(-W interactive) ;; esac

# Of one test program at a time.
threads=2

# All with --workspace: a smaller selection would unify features differently and build the world again.
tests() {
    # Of what passes, only what was skipped is told; of what fails, everything. pipefail keeps the status of the tests.
    cargo test --locked --workspace --no-fail-fast "$@" -- --show-output --test-threads "$threads" 2>&1 |
        "${filter[@]}" '/^successes:$/ { passed = 1 } /^failures:$/ || /^test result: / { passed = 0 }
            passed && !/SKIPPED:/ || /^running / || /^test .* ok$/ || /^$/ { next } { print; fflush() }'
}
# Without it every ring would run all tests of all packages.
command -v jq >/dev/null || { echo "rings: jq is missing" >&2 && exit 1; }
targets() { # test targets of these packages
    local package
    for package in "$@"; do
        cargo metadata --locked --no-deps --format-version 1 |
            jq -r --arg p "$package" '.packages[] | select(.name == $p) | .targets[] | select(.kind[] == "test") | select(.name != "moto") | "--test", .name'
    done
}

ring unit tests --lib --bins
# shellcheck disable=SC2046 # a list of words
ring conformance tests $(targets conformance)
# shellcheck disable=SC2046
ring policy tests $(targets reservoir-policy policy-test reservoir-policy-default reservoir-policy-adaptive reservoir-policy-sdk)
# shellcheck disable=SC2046
ring sim tests $(targets reservoir-sim reservoir-cloud reservoir-kube reservoir-rpc reservoir-ipamd)
# shellcheck disable=SC2046
ring pool tests $(targets properties)
# shellcheck disable=SC2046
ring kernel tests $(targets reservoir-net aws-cni egress-cni)
# shellcheck disable=SC2046
threads=3 ring e2e tests $(targets ring) # they wait more than they work
ring moto tests/moto/run.sh
ring cnitool tests/cnitool/run.sh
ring vlan tests/vlan/run.sh

echo
echo "rings:"
printf '  %s\n' "${summary[@]}"
echo "$total_passed passed, $total_failed failed, $total_skipped skipped"
exit "$failed"
