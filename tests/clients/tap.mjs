// tap.mjs - runs tests, each with a time limit, and reports in TAP. All run, even after a failure.
import assert from 'node:assert/strict';

const tests = [];

export function test(name, body) {
    tests.push({ name, body });
}

function withLimit(promise, ms) {
    let timer;
    const limit = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not finished after ${ms} ms`)), ms);
    });
    return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

// Runs everything in order of declaration. True when nothing failed. `filter` selects by name.
export async function runTests({ limitMs, filter }) {
    const chosen = tests.filter((t) => !filter || t.name.includes(filter));
    let failed = 0;
    console.log(`1..${chosen.length}`);
    for (const [i, t] of chosen.entries()) {
        try {
            await withLimit(t.body(), limitMs);
            console.log(`ok ${i + 1} - ${t.name}`);
        } catch (error) {
            failed++;
            console.log(`not ok ${i + 1} - ${t.name}`);
            console.log(String(error?.stack ?? error).replace(/^/gm, '#   '));
        }
    }
    return failed === 0;
}

// Expects the promise to fail with these properties: each a value, a RegExp or a predicate.
export async function fails(promise, expected) {
    let error;
    try {
        await promise;
    } catch (e) {
        error = e;
    }
    assert.ok(error, 'this should have failed');
    for (const [key, want] of Object.entries(expected)) {
        const got = error[key];
        if (want instanceof RegExp) {
            assert.match(String(got), want, `${key} of: ${error.message}`);
        } else if (typeof want === 'function') {
            assert.ok(want(got), `${key} is ${JSON.stringify(got)} of: ${error.message}`);
        } else {
            assert.deepEqual(got, want, `${key} of: ${error.message}`);
        }
    }
    return error;
}

// Repeats the check until it passes; throws its last failure after `ms`.
export async function eventually(check, ms = 5000) {
    const end = Date.now() + ms;
    for (;;) {
        try {
            return await check();
        } catch (error) {
            if (Date.now() > end) {
                throw error;
            }
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
}
