// load.mjs - well-behaved clients among malformed, slow and vanishing ones.
//   node tests/load.mjs FOREBAY MODEL SECONDS
// Clients of all kinds connect in random order, the same each time. Afterwards no request may be
// active or waiting and no descriptor open, and the server must end when asked to; one that is
// built with AddressSanitizer then also reports its leaks. Reports in TAP.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';

import { Server } from './clients/server.mjs';
import { eventually, runTests, test } from './clients/tap.mjs';

const [program, model, secondsText] = process.argv.slice(2);
const seconds = Number(secondsText);
const CLIENTS = 16;
const KEY = 'sesame';
const PROMPT = 'Once upon a time';

/* --- Random numbers ----------------------------------------------------------------------- */

let state = 1;
function random(n) { // 0 .. n-1, by a xorshift
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
}
const pick = (list) => list[random(list.length)];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const randomBytes = (n) => Buffer.from(Array.from({ length: n }, () => random(256)));

/* --- Requests ----------------------------------------------------------------------------- */

// Sends a well-formed request and returns {status, headers, text}. Fails if the connection does.
function ask(port, path, body,
    { method = body === undefined ? 'GET' : 'POST', key = KEY, onPart } = {}) {
    return new Promise((resolve, reject) => {
        const headers = { authorization: `Bearer ${key}`, connection: 'close' };
        const request = httpRequest({ port, path, method, headers, agent: false }, (response) => {
            let text = '';
            response.setEncoding('utf8');
            response.on('data', (part) => {
                text += part;
                onPart?.(request, response);
            });
            response.on('end', () =>
                resolve({ status: response.statusCode, headers: response.headers, text }));
            response.on('error', reject);
        });
        request.on('error', reject);
        request.end(body);
    });
}

// Connects; `how` writes to the socket. Returns the status of the answer, or 0 if there is none.
function raw(port, how, limitMs = 15000) {
    return new Promise((resolve) => {
        const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
        let answer = '';
        const timer = setTimeout(() => socket.destroy(), limitMs);
        socket.on('connect', () => how(socket));
        socket.on('data', (data) => (answer += data.toString('latin1')));
        socket.on('end', () => socket.end());
        socket.on('error', () => {});
        socket.on('close', () => {
            clearTimeout(timer);
            resolve(Number(/^HTTP\/1\.[01] (\d\d\d)/.exec(answer)?.[1] ?? 0));
        });
    });
}

const head = (path, more = '') =>
    `POST ${path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${KEY}\r\n${more}`;
const withLength = (path, body) =>
    `${head(path)}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;

/* --- The clients -------------------------------------------------------------------------- */

let server, name, wanted; // `wanted`: the correct answer to PROMPT
const statuses = {};
const wrong = [];
let answered = 0, refused = 0;

// Counts a status; one that is not allowed for this kind of client is reported at the end.
function note(kind, status, allowed) {
    const counts = (statuses[kind] ??= {});
    counts[status] = (counts[status] ?? 0) + 1;
    if (!allowed.includes(status)) {
        wrong.push(`${kind}: ${status}`);
    }
}

const BUSY = [429, 503];
const chatBody = (more = {}) => JSON.stringify({ model: name, max_tokens: 4 + random(12),
    messages: [{ role: 'user', content: `${PROMPT} ${random(5)}` }], ...more });
const longBody = () => chatBody({ stream: true, max_tokens: 400, temperature: 2 });
const paths = ['/v1/chat/completions', '/v1/completions', '/api/chat', '/api/generate'];

const clients = {
    async good() {
        const body = JSON.stringify({ model: name, prompt: PROMPT, temperature: 0,
            max_tokens: 16 });
        const { status, headers, text } = await ask(server.port, '/v1/completions', body);
        note('good', status, [200, ...BUSY]);
        if (status === 200) {
            answered++;
            if (JSON.parse(text).choices[0].text !== wanted) {
                wrong.push(`wrong answer: ${text}`);
            }
        } else {
            refused++;
            if (!(Number(headers['retry-after']) >= 1)) {
                wrong.push(`${status} without Retry-After`);
            }
        }
    },

    async goodStream() {
        const ollama = random(2) === 1;
        const body = ollama
            ? JSON.stringify({ model: name, prompt: PROMPT, options: { num_predict: 12 } })
            : chatBody({ stream: true });
        const { status, text } = await ask(server.port, ollama ? '/api/generate' : paths[0], body);
        note('goodStream', status, [200, ...BUSY]);
        if (status === 200 && !(ollama ? /"done":\s*true/ : /data: \[DONE\]\n\n$/).test(text)) {
            wrong.push(`a stream without its end: ${text.slice(-100)}`);
        }
    },

    async vanishesWhileAnswered() {
        let parts = 0;
        const leave = 1 + random(5);
        const onPart = (request) => ++parts === leave && request.destroy();
        await ask(server.port, paths[0], longBody(), { onPart }).then(
            ({ status }) => note('vanishesWhileAnswered', status, [200, ...BUSY]), () => {});
    },

    async vanishesWhileAsking() {
        const bytes = withLength(pick(paths), longBody());
        const cut = random(bytes.length + 1);
        await raw(server.port, (socket) => {
            socket.write(bytes.slice(0, cut),
                () => setTimeout(() => socket.destroy(), random(200)));
        });
    },

    async resets() {
        await raw(server.port, (socket) => {
            socket.write(withLength(paths[0], longBody()));
            setTimeout(() => socket.resetAndDestroy?.() ?? socket.destroy(), random(300));
        });
    },

    // Closes its sending half and goes on reading: receives a 400 that says this counts as leaving.
    async halfCloses() {
        const status = await raw(server.port,
            (socket) => socket.end(withLength(paths[0], chatBody())));
        note('halfCloses', status, [200, 400, ...BUSY]);
    },

    async writesSlowly() {
        const bytes = withLength(paths[0], chatBody());
        const status = await raw(server.port, async (socket) => {
            for (let at = 0; at < bytes.length && !socket.destroyed; at += 12) {
                socket.write(bytes.slice(at, at + 12));
                await sleep(20);
            }
        });
        note('writesSlowly', status, [200, 408, ...BUSY]);
    },

    async neverFinishes() { // stays connected with half a request
        const bytes = withLength(paths[0], chatBody());
        const cut = 1 + random(bytes.length - 1);
        await raw(server.port, (socket) => socket.write(bytes.slice(0, cut)), 3000);
    },

    async readsSlowly() {
        await raw(server.port, async (socket) => {
            socket.write(withLength(paths[0], longBody()));
            socket.pause();
            await sleep(1500);
            socket.resume();
            await sleep(300);
            socket.destroy();
        });
    },

    async idles() {
        await raw(server.port, () => {}, 1000 + random(1500));
    },

    async sendsGarbage() {
        const bytes = pick([() => randomBytes(1 + random(2000)),
            () => Buffer.from('\x16\x03\x01\x02\x00\x01\x00'),
            () => Buffer.from('GET\r\n\r\n'), () => Buffer.from('GET / HTTP/7.3\r\n\r\n'),
            () => Buffer.from(`POST ${paths[0]} HTTP/1.1\r\ncontent-length: nonsense\r\n\r\n`),
            () => Buffer.from(head(paths[0],
                'transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n')),
            () => Buffer.alloc(3000)])();
        const status = await raw(server.port, (socket) => socket.end(bytes), 4000);
        note('sendsGarbage', status,
            [0, 400, 401, 404, 405, 411, 413, 414, 431, 501, 505]);
    },

    async sendsTooMuch() {
        const [bytes, allowed] = pick([
            [`GET /${'a'.repeat(200000)} HTTP/1.1\r\nhost: x\r\n\r\n`, [0, 400, 414, 431, 413]],
            [`GET / HTTP/1.1\r\n${'x-filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n'.repeat(10000)}\r\n`,
                [0, 400, 431, 413]],
            [`${head(paths[0], 'content-length: 99999999999\r\n')}\r\n{`, [0, 413]],
            [`${head(paths[0], `content-length: ${200 << 20}\r\n`)}\r\n${' '.repeat(1 << 20)}`,
                [0, 413]]]);
        note('sendsTooMuch', await raw(server.port, (socket) => socket.end(bytes)), allowed);
    },

    async streamsForever() { // a chunked body without an end
        const chunk = `1000\r\n${' '.repeat(4096)}\r\n`;
        const status = await raw(server.port, async (socket) => {
            socket.write(head(paths[0], 'transfer-encoding: chunked\r\n\r\n'));
            for (let i = 0; i < 20000 && !socket.destroyed && socket.writable; i++) {
                if (!socket.write(chunk)) {
                    await Promise.race([new Promise((resolve) => socket.once('drain', resolve)),
                        sleep(1000)]);
                }
            }
            socket.destroy();
        });
        note('streamsForever', status, [0, 413]);
    },

    async sendsBrokenJson() {
        const body = Buffer.from(chatBody({ temperature: 0.5, stop: ['x'], tools: [], n: 1 }));
        for (let i = 1 + random(4); i > 0; i--) {
            body[random(body.length)] = random(256);
        }
        const { status } = await ask(server.port, pick(paths), body);
        note('sendsBrokenJson', status, [200, 400, 404, 413, ...BUSY]);
    },

    async sendsNonsense() {
        const messages = [{ role: 'user', content: 'x' }];
        const body = pick(['', '[]', 'null', '{}', '{"model":5}', '['.repeat(20000),
            '{"messages":[{}]}', '\0', '\xff\xfe',
            JSON.stringify({ model: name, messages, temperature: 1e300 }),
            JSON.stringify({ model: 'other', prompt: 'x', messages })]);
        const path = pick(paths);
        // In Ollama's API temperature is one of the options: ignored here.
        const right = path.startsWith('/api') && body.includes('1e+300');
        const { status } = await ask(server.port, path, body);
        note('sendsNonsense', status, right ? [200, ...BUSY] : [400, 404]);
    },

    async hasNoKey() {
        const { status } = await ask(server.port, pick(paths), chatBody(),
            { key: pick(['', 'x', `${KEY}x`, KEY.slice(1)]) });
        note('hasNoKey', status, [401]);
    },

    async asksElsewhere() {
        const [path, method, allowed] = pick([['/nowhere', 'GET', [404]],
            ['/v1/models', 'GET', [200]], ['/api/tags', 'GET', [200]],
            ['/metrics', 'GET', [200]], ['/v1/embeddings', 'POST', [400, 404, 501]],
            [paths[0], 'DELETE', [405]], ['/v1/models/nix', 'GET', [404]],
            ['/%00%ff', 'GET', [400, 404]], ['/../../etc/passwd', 'GET', [400, 404]]]);
        const { status } = await ask(server.port, path, method === 'POST' ? '{}' : undefined,
            { method });
        note(`asksElsewhere ${path}`, status, allowed);
    },
};

/* --- The tests ---------------------------------------------------------------------------- */

const descriptors = () => readdirSync(`/proc/${server.child.pid}/fd`).length;
const isLinux = process.platform === 'linux';
let before, slowest = 0;

async function worker(end) {
    const kinds = Object.keys(clients);
    while (Date.now() < end) {
        const kind = random(4) === 0 ? 'good' : pick(kinds);
        await clients[kind]().catch((error) => wrong.push(`${kind}: ${error.message}`));
    }
}

async function watchHealth(end) {
    while (Date.now() < end) {
        const start = Date.now();
        const { status } = await ask(server.port, '/health').catch(() => ({ status: 0 }));
        note('health', status, [200]);
        slowest = Math.max(slowest, Date.now() - start);
        await sleep(100);
    }
}

const options = ['--ctx', '2048', '--parallel', '4', '--api-key', KEY, '--weights-mem', '2500K',
    '-t', '1'];
server = await Server.start(program, model, options);
server.headers = { authorization: `Bearer ${KEY}` };
name = JSON.parse((await ask(server.port, '/v1/models')).text).data[0].id;
const first = await ask(server.port, '/v1/completions',
    JSON.stringify({ model: name, prompt: PROMPT, temperature: 0, max_tokens: 16 }));
wanted = JSON.parse(first.text).choices[0].text;
before = isLinux ? descriptors() : 0;

test('every client gets a status that it deserves', async () => {
    const end = Date.now() + seconds * 1000;
    await Promise.all([watchHealth(end), ...Array.from({ length: CLIENTS }, () => worker(end))]);
    for (const [kind, counts] of Object.entries(statuses)) {
        const list = Object.entries(counts).map(([s, n]) => `${n} x ${s}`);
        console.log(`# ${kind}: ${list.join(', ')}`);
    }
    assert.deepEqual(wrong.slice(0, 10), []);
});

test('good requests were answered among the bad ones', () => {
    console.log(`# ${answered} answered, ${refused} refused; /health took ${slowest} ms at most`);
    assert.ok(answered >= seconds, `${answered} in ${seconds} s`);
    assert.ok(slowest < 3000, `/health took ${slowest} ms`);
});

test('no request is active or waiting afterwards', () => eventually(async () => {
    const figures = await server.metrics();
    assert.equal(figures.forebay_queue_active, 0);
    assert.equal(figures.forebay_queue_waiting, 0);
}, 10000));

test('a good request is answered as before', () => clients.good());

test('no descriptor is left open', () => eventually(() => {
    assert.ok(!isLinux || descriptors() <= before,
        `${isLinux && descriptors()} open, ${before} before`);
}, 10000));

test('the server ends when asked to, and leaks nothing', async () => {
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
});

if (!await runTests({ limitMs: (seconds + 60) * 1000 })) {
    console.log(server.log.replace(/^/gm, '# server: '));
    process.exit(1);
}
