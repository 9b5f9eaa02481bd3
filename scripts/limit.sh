#!/usr/bin/env bash
# Runs a command under a memory limit that the kernel enforces, the page cache included.
#   scripts/limit.sh SIZE COMMAND [ARG...]     SIZE like 768M; the command's exit code
#   scripts/limit.sh SIZE                      only finds out whether that is possible here
# Exit 125, and the reason on stderr, where no limit can be set. As root by a cgroup (v2 or v1) of
# its own, which is removed at the end; else by systemd, where it lets users do this.
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
    fail "cgroups are Linux's"
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
        { rmdir $group; fail "$root does not hand on the memory controller"; }
    { echo 0 >$group/memory.swap.max; } 2>/dev/null
else
    group=$root/memory/forebay.$$
    mkdir $group 2>/dev/null || fail "$root/memory is missing or read-only"
    { echo "$bytes" >$group/memory.limit_in_bytes; } 2>/dev/null ||
        { rmdir $group; fail "$group takes no limit"; }
fi
trap 'rmdir $group' EXIT
trap : INT TERM # the command gets them, too; the cgroup is removed after it
(echo "$BASHPID" >$group/cgroup.procs && exec "$@")
