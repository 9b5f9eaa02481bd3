#!/usr/bin/env bash
# Installs the API clients that tests/clients uses into deps/clients/node_modules, in the versions
# that its package-lock.json pins. npm checks each archive against the lock file and runs none of
# their scripts. Does nothing if they are already installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
from=tests/clients
into=deps/clients

# The lock file is copied last, so its copy marks a complete installation.
if cmp -s "$from/package-lock.json" "$into/.installed"; then
    exit 0
fi
command -v npm >/dev/null || {
    echo "fetch-clients: npm is missing. Run scripts/setup.sh to install it." >&2
    exit 1
}
mkdir -p "$into"
cp "$from/package.json" "$from/package-lock.json" "$into/"
echo "fetch-clients: installing the API clients for the tests" >&2
(cd "$into" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >npm.log 2>&1) || {
    sed 's/^/  /' "$into/npm.log" >&2
    echo "fetch-clients: npm failed to install the API clients." >&2
    echo "  Check the network and run this again." >&2
    exit 1
}
cp "$into/package-lock.json" "$into/.installed"
