#!/usr/bin/env bash
# Installs the API clients that tests/clients tries, as its package-lock.json pins them, into
# deps/clients/node_modules. npm checks each archive against the lock; nothing in them is run.
# Does nothing when they are there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
from=tests/clients
into=deps/clients

# The lock is copied last: where it is, the rest is complete.
if cmp -s "$from/package-lock.json" "$into/.installed"; then
    exit 0
fi
command -v npm >/dev/null || {
    echo "fetch-clients: npm is missing. Run scripts/setup.sh, which installs it." >&2
    exit 1
}
mkdir -p "$into"
cp "$from/package.json" "$from/package-lock.json" "$into/"
echo "fetch-clients: getting the API clients for the tests" >&2
(cd "$into" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >npm.log 2>&1) || {
    sed 's/^/  /' "$into/npm.log" >&2
    echo "fetch-clients: npm could not install them. Check the network and run this again." >&2
    exit 1
}
cp "$into/package-lock.json" "$into/.installed"
