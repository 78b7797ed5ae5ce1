#!/bin/sh
# Real CNI machinery drives the plugin: libcni's cnitool runs ADD, CHECK and DEL of a list that chains Debian's portmap
# behind aws-cni, in a node namespace of its own.
#
#   tests/cnitool/run.sh
#
# First ipamd is the plugin's scripted example, then the daemon itself on a simulated node (ring-node; RING_BINARIES and
# RING_PLUGIN say where the binaries are, default target/debug and target/cni). To use a running daemon instead, name its
# socket and the network namespace (of `ip netns`) it works in:
#
#   IPAMD_SOCKET=/run/node/ipamd.sock NODE_NETNS=node tests/cnitool/run.sh
#
# Other settings: CNI_BIN (the directory of our plugins, default target/cni), PLUGIN_PATH (of portmap, default /usr/lib/cni),
# CNITOOL (default target/cnitool/cnitool, installed there by go), SCRIPTED_IPAMD (default: built).
set -u
cd "$(dirname "$0")/../.."
root=$PWD
CNITOOL_VERSION=v1.3.0

skip() {
    echo "SKIPPED: cnitool: $1"
    exit 0
}
fail() {
    echo "FAILED: cnitool: $1" >&2
    [ -f "${work:-}/plugin.log" ] && tail -5 "$work/plugin.log" >&2
    [ -n "${CNITOOL_NESTED:-}" ] || echo "ring-result: ${passed:-0} passed, 1 failed"
    exit 1
}

PLUGIN_PATH=${PLUGIN_PATH:-/usr/lib/cni}
target=${CARGO_TARGET_DIR:-$root/target}
CNI_BIN=${CNI_BIN:-$target/cni}
CNITOOL=${CNITOOL:-$target/cnitool/cnitool}
[ "$(id -u)" = 0 ] || skip "needs root for network namespaces"
command -v ip >/dev/null || skip "ip (package iproute2) is missing"
command -v jq >/dev/null || skip "jq is missing"
command -v iptables >/dev/null || skip "iptables is missing, which portmap needs"
[ -x "$PLUGIN_PATH/portmap" ] || skip "$PLUGIN_PATH/portmap (package containernetworking-plugins) is missing"
if [ ! -x "$CNITOOL" ]; then
    command -v go >/dev/null || skip "go is missing, which builds cnitool"
    GOBIN=$(dirname "$CNITOOL") go install "github.com/containernetworking/cni/cnitool@$CNITOOL_VERSION" ||
        skip "go cannot build cnitool $CNITOOL_VERSION"
fi
[ -x "$CNI_BIN/aws-cni" ] && [ -x "$CNI_BIN/egress-cni" ] || cni/build.sh >/dev/null || fail "cni/build.sh"

binaries=${RING_BINARIES:-$target/debug}
[ -x "$binaries/ipamd" ] || skip "$binaries/ipamd is not built, which makes the list"

work=$(mktemp -d)
pod=rsv-cnitool-$$-pod
daemon=
made_node=
ring_node=
passed=0
cleanup() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null
    # Also what cnitool keeps of an ADD, when something failed in between.
    [ ! -f "$work/aws.conflist" ] || cnitool del >/dev/null 2>&1
    ip netns del "$pod" 2>/dev/null
    [ -z "$made_node" ] || ip netns del "$node" 2>/dev/null
    # ring-node ends with its input, and takes its node down.
    [ -z "$ring_node" ] || { exec 9>&-; wait "$ring_node"; }
    rm -rf "$work"
}
# cnitool COMMAND [DIRECTORY OF LISTS]
cnitool() {
    ip netns exec "$node" env NETCONFPATH="${2:-$work}" CNI_PATH="$CNI_BIN:$PLUGIN_PATH" \
        CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=cnitool-$$;K8S_POD_INFRA_CONTAINER_ID=i" \
        CAP_ARGS='{"portMappings":[{"hostPort":18080,"containerPort":80,"protocol":"tcp"}]}' \
        "$CNITOOL" "$1" aws-cni "/var/run/netns/$pod"
}
on_node() {
    ip netns exec "$node" "$@"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

if [ -n "${IPAMD_SOCKET:-}" ]; then
    node=${NODE_NETNS:?with IPAMD_SOCKET, name the namespace the daemon works in}
else
    if [ -z "${SCRIPTED_IPAMD:-}" ]; then
        cargo build -q -p aws-cni --example scripted_ipamd || fail "the scripted ipamd does not build"
        SCRIPTED_IPAMD=${CARGO_TARGET_DIR:-target}/debug/examples/scripted_ipamd
    fi
    node=rsv-cnitool-$$-node
    ip netns add "$node" || skip "network namespaces cannot be made here"
    made_node=1
    on_node ip link set lo up
    IPAMD_SOCKET=$work/ipamd.sock
    "$SCRIPTED_IPAMD" "$IPAMD_SOCKET" 10.9.0.5 2 >"$work/ipamd.log" 2>&1 &
    daemon=$!
    tries=0
    until [ -S "$IPAMD_SOCKET" ]; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "the scripted ipamd does not listen: $(cat "$work/ipamd.log")"
        sleep 0.05
    done
fi
ip netns add "$pod" || fail "cannot make namespace $pod"

# The list that the daemon makes of the shipped one for a node with no settings of its own; unlike that it has CHECK
# turned on, no egress, and another socket.
env -i PATH="$PATH" ENABLE_IPv4=true MY_NODE_NAME=node-1 AWS_VPC_K8S_PLUGIN_LOG_FILE="$work/plugin.log" \
    AWS_VPC_K8S_PLUGIN_LOG_LEVEL=debug "$binaries/ipamd" conflist deploy/10-aws.conflist >"$work/rendered" ||
    fail "ipamd conflist"
jq --arg socket "$IPAMD_SOCKET" '.disableCheck = false | .plugins[0].ipamdSocket = $socket' "$work/rendered" \
    >"$work/aws.conflist" || fail "the list is no JSON: $(cat "$work/rendered")"

# CHECK runs on aws-cni alone: portmap 1.1.1 looks for IPv6 rules of pods without IPv6, and fails.
mkdir "$work/check"
jq '.plugins |= .[:1]' "$work/aws.conflist" >"$work/check/aws.conflist" || fail "the list is no JSON"

result=$(cnitool add) || fail "add: $result"
address=$(echo "$result" | sed -n 's|.*"address": "\([0-9.]*\)/32".*|\1|p' | head -1)
[ -n "$address" ] || fail "no address in the result: $result"
echo "add: $address"
ip netns exec "$pod" ip -4 -o addr show eth0 | grep -q "inet $address/32" || fail "$address is not in the pod"
on_node ip rule | grep -q "^512:.*to $address lookup main" || fail "no rule to the pod: $(on_node ip rule)"
on_node iptables -t nat -S | grep -q -- "--to-destination $address:80" || fail "portmap did not map the port"
if [ -z "$made_node" ]; then
    # Nobody listens, and the pod says so. (Answers need an address of the node, which the scripted node does not have.)
    out=$(on_node curl -sS --noproxy '*' --max-time 3 "http://$address:80" 2>&1)
    case $out in
    *refused* | *"Failed to connect"* | *"Could not connect"*) on_node ip neigh show "$address" | grep -q lladdr || fail "no answer of the pod: $out" ;;
    *) fail "the node does not reach the pod: $out" ;;
    esac
    echo "add: the node reaches it"
fi

out=$(cnitool check "$work/check") || fail "check of a sound pod: $out"
echo "check: sound"
on_node ip rule del to "$address" priority 512 table main
out=$(cnitool check "$work/check" 2>&1) && fail "check does not notice that the pod's rule is gone"
echo "$out" | grep -q "512" || fail "check does not say what is missing: $out"
echo "check: tells that the pod's rule is gone"
on_node ip rule add to "$address" priority 512 table main

out=$(cnitool del) || fail "del: $out"
on_node ip rule | grep -q "$address" && fail "del left a rule: $(on_node ip rule)"
on_node iptables -t nat -S | grep -q "$address" && fail "del left a port mapping"
echo "del: nothing left"
out=$(cnitool del) || fail "del of a deleted pod: $out"
echo "del again: fine"
echo "PASSED: cnitool with ${made_node:+a scripted }ipamd"
[ -z "${CNITOOL_NESTED:-}" ] || exit 0
passed=1

# Once more with the daemon itself.
if [ -n "$made_node" ]; then
    RING_NODE=${RING_NODE:-$binaries/ring-node}
    for binary in "$RING_NODE" "$binaries/ipamd" "$binaries/aws-sim"; do
        [ -x "$binary" ] || {
            echo "SKIPPED: cnitool with the daemon: $binary is not built"
            echo "ring-result: $passed passed, 0 failed"
            exit 0
        }
    done
    mkfifo "$work/hold"
    "$RING_NODE" <"$work/hold" >"$work/node.json" 2>"$work/node.err" &
    ring_node=$!
    exec 9>"$work/hold"
    tries=0
    until [ -s "$work/node.json" ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] && kill -0 "$ring_node" 2>/dev/null || fail "no simulated node: $(cat "$work/node.err")"
        sleep 0.05
    done
    value() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$work/node.json"; }
    CNITOOL_NESTED=1 IPAMD_SOCKET=$(value socket) NODE_NETNS=$(value netns) CNI_BIN=$CNI_BIN CNITOOL=$CNITOOL \
        tests/cnitool/run.sh 9>&- || fail "with the daemon"
    passed=2
fi
echo "ring-result: $passed passed, 0 failed"
