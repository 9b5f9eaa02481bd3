// http.mjs - HTTP itself: what every client relies on, and requests that no client would send.
import assert from 'node:assert/strict';
import { connect } from 'node:net';

import { test } from './tap.mjs';

const CHAT = '/v1/chat/completions';

// Sends bytes as they are. Returns all that is received until the server closes the connection.
function exchange(port, bytes) {
    return new Promise((resolve, reject) => {
        const socket = connect(port, '127.0.0.1', () => socket.end(bytes));
        let answer = '';
        socket.on('data', (data) => (answer += data.toString('latin1')));
        socket.on('error', reject);
        socket.on('close', () => resolve(answer));
    });
}

export function httpTests({ server }) {
    const { url, port } = server;
    const post = (path, body, headers = {}) =>
        fetch(url + path, { method: 'POST', body, headers: { ...server.headers, ...headers } });

    test('http: /health needs no key', async () => {
        const health = await fetch(`${url}/health`);
        assert.equal(health.status, 200);
        assert.equal((await health.json()).status, 'ok');
        assert.equal((await fetch(url, { headers: server.headers })).status, 200);
        assert.equal((await fetch(url, { method: 'HEAD', headers: server.headers })).status, 200);
    });

    test('http: /metrics is Prometheus text', async () => {
        const response = await fetch(`${url}/metrics`, { headers: server.headers });
        assert.match(response.headers.get('content-type'), /^text\/plain; *version=0\.0\.4/);
        const text = await response.text();
        for (const line of text.trimEnd().split('\n')) {
            assert.match(line,
                /^(# (HELP|TYPE) [a-z_:]+ .+|[a-z_:]+(\{[^}]*\})? [-+0-9.eE]+|[a-z_:]+ NaN)$/);
        }
        assert.equal((await server.metrics()).forebay_queue_active, 0);
    });

    test('http: unknown paths are refused with 404, wrong methods with 405', async () => {
        assert.equal((await fetch(`${url}/nowhere`, { headers: server.headers })).status, 404);
        const nul = await fetch(`${url}/v1/models%00x`, { headers: server.headers });
        assert.equal(nul.status, 404);
        const get = await fetch(url + CHAT, { headers: server.headers });
        assert.equal(get.status, 405);
        assert.equal(get.headers.get('allow'), 'POST');
        const remove = await fetch(`${url}/api/tags`,
            { method: 'DELETE', headers: server.headers });
        assert.equal(remove.status, 405);
        assert.equal(remove.headers.get('allow'), 'GET, HEAD');
        const not = await (await post('/v1/nowhere', '{}')).json();
        assert.equal(typeof not.error.message, 'string');
        assert.equal(typeof (await (await post('/api/nowhere', '{}')).json()).error, 'string');
    });

    test('http: bodies that are not requests are refused with 400', async () => {
        const chat = (content) =>
            Buffer.concat([Buffer.from('{"model":"m","messages":[{"role":"user","content":"'),
            content, Buffer.from('"}]}')]);
        const bodies = {
            'nothing': '', 'not JSON': 'hello', 'half': '{"messages": [', 'two': '{} {}',
            'a list': '[]', 'a number': '5', 'null': 'null', 'deep': '['.repeat(100000),
            'deep objects': '{"a":'.repeat(50000),
            'invalid UTF-8': chat(Buffer.from([0xc3, 0x28])),
            'a surrogate': chat(Buffer.from([0xed, 0xa0, 0x80])),
            'a NUL byte': chat(Buffer.from([0])),
            'a huge number': '{"max_tokens":1e99999,"messages":[{"role":"user","content":"x"}]}',
        };
        for (const path of [CHAT, '/v1/completions', '/api/chat', '/api/generate', '/api/show']) {
            for (const [what, body] of Object.entries(bodies)) {
                const response = await post(path, body);
                assert.equal(response.status, 400, `${path} with ${what}`);
                const { error } = await response.json();
                assert.equal(typeof (path.startsWith('/v1') ? error.message : error), 'string',
                    `${path} with ${what}`);
            }
        }
    });

    test('http: a NUL inside a string is refused or is text, never an end', async () => {
        const models = await fetch(`${url}/v1/models`, { headers: server.headers });
        const { data } = await models.json();
        const body = { model: data[0].id, prompt: 'Once\u0000 upon', max_tokens: 2 };
        const response = await post('/v1/completions', JSON.stringify(body));
        assert.ok([200, 400].includes(response.status));
        const model = await post('/v1/completions',
            JSON.stringify({ ...body, prompt: 'x', model: `${data[0].id}\u0000x` }));
        assert.ok([400, 404].includes(model.status), 'a name with a NUL is a different name');
    });

    test('http: a body that is too large is refused with 413', async () => {
        const response = await post(CHAT, Buffer.alloc(64 << 20, 32)).catch((error) => error);
        // It may be refused while it is still being sent, which fetch reports as a failure.
        assert.ok(response.status === 413 || response instanceof TypeError, `${response.status}`);
        const answer = await exchange(port,
            `POST ${CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sesame\r\n` +
            'content-length: 99999999999\r\n\r\n{');
        assert.match(answer, /^HTTP\/1.1 413 [^]*"message"/);
    });

    test('http: garbage is refused, and the server goes on', async () => {
        for (const bytes of ['\0\0\0\0', 'GET\r\n\r\n', 'GET / HTTP/9.9\r\n\r\n',
            '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
            `GET /${'a'.repeat(100000)} HTTP/1.1\r\nhost: x\r\n\r\n`,
            `GET / HTTP/1.1\r\n${'x: y\r\n'.repeat(50000)}\r\n`,
            `POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n`,
            `POST ${CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n`]) {
            const answer = await exchange(port, bytes).catch(() => '');
            assert.ok(answer === '' || /^HTTP\/1\.[01] [45]\d\d/.test(answer), answer.slice(0, 80));
        }
        assert.equal((await fetch(`${url}/health`)).status, 200);
    });

    test('http: special tokens in the text of a user are text', async () => {
        const models = await fetch(`${url}/v1/models`, { headers: server.headers });
        const { data } = await models.json();
        const count = async (content) => {
            const messages = [{ role: 'user', content }];
            const body = { model: data[0].id, messages, max_tokens: 1 };
            return (await (await post(CHAT, JSON.stringify(body))).json()).usage.prompt_tokens;
        };
        const none = await count('');
        assert.ok((await count('</s>')) > none + 1, 'several tokens, not the control token');
        assert.ok((await count('<s><unk></s>')) > none + 5);
    });
}
