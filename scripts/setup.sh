#!/usr/bin/env bash
# Installs the packages that Forebay needs to build and that are missing.
#   scripts/setup.sh            installs (Debian and Ubuntu: apt-get; macOS: Homebrew)
#   scripts/setup.sh --check    only lists the missing packages; exit 1 if there are any
set -euo pipefail

# requirement | Debian package | Homebrew formula (-: part of the system's command line tools)
#   cmd:NAME   a program on the PATH      pc:NAME   a library known to pkg-config
#   linux:...  needed on Linux only
needs='
cmd:cc          gcc             -
cmd:c++         g++             -
cmd:make        make            -
cmd:cmake       cmake           cmake
cmd:git         git             -
cmd:node        nodejs          node
cmd:npm         npm             node
cmd:pkg-config  pkg-config      pkg-config
pc:jansson      libjansson-dev  jansson
pc:libmicrohttpd libmicrohttpd-dev libmicrohttpd
pc:cmocka       libcmocka-dev   cmocka
linux:pc:liburing liburing-dev  -
linux:pc:libedit libedit-dev    -
'

say() { echo "setup: $1" >&2; }

have() {
    case $1 in
    cmd:*) command -v "${1#cmd:}" >/dev/null ;;
    pc:*) command -v pkg-config >/dev/null && pkg-config --exists "${1#pc:}" ;;
    esac
}

# missing COLUMN: prints the missing packages by their names in COLUMN (2: Debian, 3: Homebrew).
missing() {
    local column=$1 what debian brew
    while read -r what debian brew; do
        [ -n "$what" ] || continue
        case $what in
        linux:*)
            [ "$(uname -s)" = Linux ] || continue
            what=${what#linux:}
            ;;
        esac
        have "$what" && continue
        if [ "$column" = 2 ]; then echo "$debian"; else echo "$brew"; fi
    done <<<"$needs" | sort -u
}

install_debian() {
    local packages=$1 as_root=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "these packages are missing, and installing them needs root:"
            say "  apt-get install $packages"
            exit 1
        fi
        as_root=(sudo)
    fi
    say "installing $packages"
    # shellcheck disable=SC2086 # a list of words
    set -- ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get \
        -o DPkg::Lock::Timeout=120 -y -q --no-install-recommends install $packages
    local log
    log=$(mktemp)
    # A new machine has no package lists, an old one stale lists: update them and try again.
    "$@" >"$log" 2>&1 || {
        ${as_root[@]+"${as_root[@]}"} apt-get -q update >>"$log" 2>&1 || true
        "$@" >>"$log" 2>&1
    } || {
        tail -n 20 "$log" >&2
        rm -f "$log"
        say "apt-get could not install: $packages"
        exit 1
    }
    rm -f "$log"
}

install_macos() {
    local packages=$1
    case " $packages " in
    *" - "*)
        say "the command line tools are missing. Run: xcode-select --install"
        exit 1
        ;;
    esac
    if ! command -v brew >/dev/null; then
        say "Homebrew is missing. Install it, then run: brew install $packages"
        exit 1
    fi
    say "installing $packages"
    # shellcheck disable=SC2086
    HOMEBREW_NO_AUTO_UPDATE=1 brew install --quiet $packages
}

column=2
[ "$(uname -s)" != Darwin ] || column=3
packages=$(missing $column | tr '\n' ' ')
packages=${packages% }
[ -n "$packages" ] || exit 0

if [ "${1:-}" = --check ]; then
    say "missing: $packages"
    exit 1
elif [ "$column" = 3 ]; then
    install_macos "$packages"
elif command -v apt-get >/dev/null; then
    install_debian "$packages"
else
    say "apt-get is missing. Install your system's packages for: $packages"
    exit 1
fi

packages=$(missing $column | tr '\n' ' ')
if [ -n "$packages" ]; then
    say "these packages are still missing after the installation: $packages"
    exit 1
fi
