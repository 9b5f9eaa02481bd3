#!/usr/bin/env bash
# Builds Forebay and runs all tests: unit tests, dependency check, exports, golden tests and others.
#   scripts/check.sh [PRESET [quick]]      PRESET is release (default), asan or tsan;
#                                          quick: without the tests that take a minute or more
# The last line is `N passed, M failed[, K skipped]`, counting test cases. Exit 1 if any failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}
build=build/$preset
select=()
[ "${2:-}" != quick ] || select=(-LE slow)

scripts/build.sh "$preset"
scripts/fetch-clients.sh || true # without the API clients, their tests count as skipped

log=$build/Testing/Temporary/LastTest.log
rm -f "$log"
tests_rc=0
ctest --test-dir "$build" -j "${JOBS:-2}" ${select[@]+"${select[@]}"} --output-on-failure ||
    tests_rc=$?

# Tests report in TAP, or with a last line like our own. A test that fails without naming the failed
# case, or reports fewer cases than it announced, counts as at least one more failure.
counts=$(awk '
    / Testing: / { planned = seen = bad = 0 }
    /^1\.\.[0-9]+$/ { planned += substr($0, 4) }
    /^1\.\.0 *# SKIP/ { # all that is left of the plan
        skipped += planned > seen ? planned - seen : 1
        planned = seen
        next
    }
    /^(not )?ok [0-9]+ # SKIP/ { seen++; skipped++; next }
    /^ok [0-9]+ / { seen++; passed++ }
    /^not ok [0-9]+ / { seen++; bad++; failed++ }
    /^[0-9]+ passed, [0-9]+ failed/ { passed += $1; failed += $3; bad += $3 }
    /^Unable to find executable/ { failed++ }
    /^Test (Passed|Failed)\.$/ {
        if (seen < planned) { failed += planned - seen; bad++ }
        if (/Failed/ && !bad) failed++
    }
    END { print passed + 0, failed + 0, skipped + 0 }' "$log")
read -r passed failed skipped <<<"$counts"
if [ "$tests_rc" != 0 ] && [ "$failed" = 0 ]; then
    failed=1
fi
line="$passed passed, $failed failed"
[ "$skipped" = 0 ] || line="$line, $skipped skipped"
echo "$line"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
