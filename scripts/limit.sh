#!/usr/bin/env bash
# Runs a command under a memory limit that the kernel enforces; the page cache counts.
#   scripts/limit.sh SIZE COMMAND [ARG...]     SIZE like 768M; exits with the command's exit code
#   scripts/limit.sh SIZE                      only tests whether a limit can be set here
# If no limit can be set, exits with 125 and prints the reason on stderr. Root gets a cgroup (v2 or
# v1) of its own, which is removed at the end; other users need a systemd user session.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
size=$1
shift
[ $# -gt 0 ] || set -- true

fail() {
    echo "no memory limit can be set here: $*" >&2
    exit 125
}

if [ "$(uname)" != Linux ]; then
    fail "cgroups exist on Linux only"
fi
bytes=$(numfmt --from=iec "$size") || exit 2
root=/sys/fs/cgroup
if [ "$(id -u)" != 0 ]; then
    systemd-run --user --scope --quiet -p MemoryMax=1G true 2>/dev/null ||
        fail "this needs root, or a systemd user session"
    exec systemd-run --user --scope --quiet -p MemoryMax="$bytes" -p MemorySwapMax=0 "$@"
fi
if [ -f $root/cgroup.controllers ]; then
    group=$root/forebay.$$
    { echo +memory >$root/cgroup.subtree_control; } 2>/dev/null
    mkdir $group 2>/dev/null || fail "$root is read-only"
    { echo "$bytes" >$group/memory.max; } 2>/dev/null ||
        { rmdir $group; fail "the memory controller is not enabled in $root"; }
    { echo 0 >$group/memory.swap.max; } 2>/dev/null
else
    group=$root/memory/forebay.$$
    mkdir $group 2>/dev/null || fail "$root/memory is missing or read-only"
    { echo "$bytes" >$group/memory.limit_in_bytes; } 2>/dev/null ||
        { rmdir $group; fail "cannot write $group/memory.limit_in_bytes"; }
fi
trap 'rmdir $group' EXIT
trap : INT TERM # the command receives these signals, too; the cgroup is removed when it has ended
(echo "$BASHPID" >$group/cgroup.procs && exec "$@")
