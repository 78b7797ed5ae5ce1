#!/bin/bash
# Branch interfaces on a kernel that has vlans: Debian's cloud kernel, booted by qemu without any help of the machine's
# processor, with an initramfs that holds the tests, the static plugin, `ip` and a shell.
#
#   tests/vlan/run.sh
#
# Settings: BRANCH_TESTS (the test program; default: built here), AWS_CNI (the static plugin, default
# target/cni/aws-cni), VLAN_CACHE (where the kernel's package is kept, default target/vlan).
set -u
cd "$(dirname "$0")/../.."

skip() {
    echo "SKIPPED: vlan: $1"
    exit 0
}
fail() {
    echo "FAILED: vlan: $1" >&2
    echo "ring-result: 0 passed, 1 failed"
    exit 1
}

for tool in qemu-system-x86_64 cpio dpkg-deb apt-get apt-cache jq ip ldd; do
    command -v "$tool" >/dev/null || skip "$tool is missing (packages qemu-system-x86, cpio, apt, jq, iproute2)"
done
[ "$(uname -m)" = x86_64 ] || skip "the kernel is for x86_64"
target=${CARGO_TARGET_DIR:-$PWD/target}
cache=${VLAN_CACHE:-$target/vlan}
AWS_CNI=${AWS_CNI:-$target/cni/aws-cni}
mkdir -p "$cache"

# The kernel and the shell: their packages are taken apart, not installed.
unpack() { # package, file in it
    compgen -G "$cache/$2" >/dev/null && return
    local package=$1
    (cd "$cache" && apt-get download "$package" >/dev/null 2>&1) || skip "$package cannot be downloaded (run apt-get update)"
    dpkg-deb -x "$(compgen -G "$cache/${package}_*.deb" | head -1)" "$cache/root" || fail "$package cannot be taken apart"
}
image=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -1)
[ -n "$image" ] || skip "no package linux-image-cloud-amd64 here (run apt-get update)"
unpack "$image" "root/boot/vmlinuz-*"
unpack busybox-static root/bin/busybox
kernel=$(compgen -G "$cache/root/boot/vmlinuz-*" | head -1)
modules=$(compgen -G "$cache/root/lib/modules/*/kernel" | head -1)

if [ -z "${BRANCH_TESTS:-}" ]; then
    BRANCH_TESTS=$(cargo test --locked --workspace --test branch --no-run --message-format=json |
        jq -r 'select(.profile.test == true and .target.name == "branch") | .executable') || fail "the tests do not build"
fi
[ -x "$BRANCH_TESTS" ] || fail "no test program: $BRANCH_TESTS"
[ -x "$AWS_CNI" ] || cni/build.sh aws-cni >/dev/null || fail "cni/build.sh"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{proc,sys,dev,run/netns,var,tmp,etc,modules}
ln -s ../run "$root/var/run"

# A program with the libraries it is linked with.
add() { # program, place
    install -D "$1" "$root$2"
    local library
    for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
        [ -e "$root$library" ] || install -D "$(readlink -f "$library")" "$root$library"
    done
}
add "$BRANCH_TESTS" /branch-tests
add "$AWS_CNI" /aws-cni
add "$(command -v ip)" /bin/ip
for name in sh mount insmod; do
    install -D "$cache/root/bin/busybox" "$root/bin/$name"
done
for module in net/llc/llc net/802/stp net/802/garp net/802/mrp net/8021q/8021q drivers/net/veth; do
    cp "$modules/$module.ko"* "$root/modules/" 2>/dev/null || fail "the kernel has no module $module"
done

cat >"$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in llc stp garp mrp 8021q veth; do
    insmod "/modules/$module.ko" || echo "insmod $module failed"
done
ip link set lo up
cd /
KERNEL_HAS_VLANS=1 AWS_CNI=/aws-cni /branch-tests --nocapture --test-threads 1
echo "vlan-exit: $?"
echo o >/proc/sysrq-trigger
while :; do :; done
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$cache/initramfs.gz" || fail "no initramfs"

log=$cache/console.log
timeout 300 qemu-system-x86_64 -accel tcg -cpu max -m 512 -smp 1 -no-reboot -nographic -nic none -kernel "$kernel" \
    -initrd "$cache/initramfs.gz" -append "console=ttyS0 quiet panic=-1" </dev/null >"$log" 2>&1
tr -d '\r' <"$log" | grep -a -E '^(test |SKIPPED|insmod )'
grep -a -q 'vlan-exit: 0' "$log" || {
    echo "vlan: the whole log is in $log; its end:" >&2
    tail -60 "$log" >&2
    grep -a -q 'test result: ' "$log" || fail "the kernel did not come to the end of the tests"
    exit 1
}
