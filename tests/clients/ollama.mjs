// ollama.mjs - the server as the `ollama` package uses it.
import assert from 'node:assert/strict';

import { chatml } from './openai.mjs';
import { forebayRun } from './server.mjs';
import { eventually, fails, test } from './tap.mjs';

const STORY = 'Once upon a time';
const city = { type: 'string', enum: ['Paris', 'Rome', 'Oslo'] };
const schema = { type: 'object', properties: { city }, required: ['city'] };
// As `forebay run` samples: the likeliest token, no penalties.
const greedy = { temperature: 0, repeat_penalty: 1, presence_penalty: 0, frequency_penalty: 0 };

async function collect(stream) {
    const parts = [];
    for await (const part of stream) {
        parts.push(part);
    }
    return parts;
}

export function ollamaTests({ require, server, program, model, placement }) {
    const { Ollama } = require('ollama');
    const client = (headers = server.headers) => new Ollama({ host: server.url, headers });
    const ollama = client();
    const name = async () => (await ollama.list()).models[0].name;
    const generate = async ({ options, ...more } = {}) =>
        ollama.generate(
            { model: await name(), prompt: STORY, options: { ...greedy, ...options }, ...more });
    const chat = async ({ options, ...more } = {}) =>
        ollama.chat({ model: await name(), messages: [{ role: 'user', content: STORY }],
            options: { ...greedy, ...options }, ...more });
    const running = async () => (await server.metrics())['forebay_queue_active'];

    /* --- Models --- */

    test('ollama: version, list, ps, show', async () => {
        assert.match((await ollama.version()).version, /^\d+\.\d+\.\d+/);
        assert.equal((await ollama.pull({ model: await name() })).status, 'success');
        const [listed] = (await ollama.list()).models;
        assert.equal(listed.model, listed.name);
        assert.equal(typeof listed.size, 'number');
        assert.match(listed.digest, /^(sha256:)?[0-9a-f]{64}$/);
        assert.ok(!Number.isNaN(Date.parse(listed.modified_at)));
        assert.equal(listed.details.format, 'gguf');
        assert.equal(listed.details.family, 'llama');
        const [runs] = (await ollama.ps()).models;
        assert.equal(runs.name, listed.name);
        assert.ok(!Number.isNaN(Date.parse(runs.expires_at)));
        assert.equal(typeof runs.size_vram, 'number');
        const shown = await ollama.show({ model: listed.name });
        assert.equal(shown.details.family, 'llama');
        assert.equal(shown.model_info['general.architecture'], 'llama');
        assert.ok(shown.model_info['llama.context_length'] >= 512);
        assert.ok(shown.capabilities.includes('completion'));
        assert.equal(typeof shown.template, 'string');
    });

    test('ollama: a name may carry the tag latest', async () => {
        const plain = (await name()).replace(/:latest$/, '');
        for (const model of [plain, `${plain}:latest`]) {
            assert.equal((await generate({ model, options: { num_predict: 2 } })).eval_count, 2);
        }
    });

    /* --- Generate --- */

    test('ollama: a raw prompt gives the text of forebay run', async () => {
        const want = await forebayRun(program, model, [...placement, '-p', STORY, '-n', '32']);
        const got = await generate({ raw: true, options: { num_predict: 32 } });
        assert.equal(STORY + got.response, STORY + want);
        assert.equal(got.done, true);
        assert.equal(got.done_reason, 'length');
        assert.equal(got.eval_count, 32);
        assert.ok(got.prompt_eval_count >= 1);
        for (const key of ['total_duration', 'load_duration', 'prompt_eval_duration',
            'eval_duration']) {
            assert.ok(Number.isInteger(got[key]) && got[key] >= 0, key);
        }
        assert.ok(got.total_duration >= got.eval_duration);
        assert.ok(Math.abs(Date.parse(got.created_at) - Date.now()) < 60000);
    });

    test('ollama: without raw the prompt is rendered by the template', async () => {
        const want = await forebayRun(program, model,
            [...placement, '-p', chatml(STORY), '-n', '16']);
        assert.equal((await generate({ options: { num_predict: 16 } })).response.trim(),
            want.trim());
        const system = await generate({ system: 'You are a dragon.',
            options: { num_predict: 16 } });
        const messages = [{ role: 'system', content: 'You are a dragon.' },
            { role: 'user', content: STORY }];
        const same = await chat({ messages, options: { num_predict: 16 } });
        assert.equal(system.response, same.message.content);
    });

    test('ollama: a streamed generate is the same text', async () => {
        const whole = await generate({ options: { num_predict: 24 } });
        const parts = await collect(await generate({ stream: true, options: { num_predict: 24 } }));
        assert.equal(parts.map((p) => p.response).join(''), whole.response);
        assert.ok(parts.length > 4);
        assert.ok(parts.slice(0, -1).every((p) => p.done === false && p.eval_count === undefined));
        assert.equal(parts.at(-1).done, true);
        assert.equal(parts.at(-1).eval_count, 24);
    });

    test('ollama: options', async () => {
        const say = async (options) =>
            (await generate({ raw: true, options: { num_predict: 60, ...options } })).response;
        const plain = await say({});
        const warm = { temperature: 1.2, top_k: 50, top_p: 0.99, min_p: 0, typical_p: 1,
            repeat_last_n: 32 };
        assert.equal(await say({ ...warm, seed: 4 }), await say({ ...warm, seed: 4 }));
        assert.notEqual(await say({ ...warm, seed: 4 }), await say({ ...warm, seed: 5 }));
        assert.equal(await say({ ...warm, top_k: 1, seed: 9 }), plain);
        assert.notEqual(await say({ repeat_penalty: 1.8 }), plain);
        const at = plain.indexOf('named');
        assert.ok(at > 0);
        assert.equal(await say({ stop: ['named'] }), plain.slice(0, at));
        const stopped = await generate(
            { raw: true, options: { stop: ['named'], num_predict: 60 } });
        assert.equal(stopped.done_reason, 'stop');
        await say({ mirostat: 2, mirostat_tau: 5, mirostat_eta: 0.1, seed: 1, temperature: 0.8 });
        await say({ num_ctx: 256, num_batch: 8, num_thread: 1, num_gpu: 0, use_mmap: true,
            num_keep: 4 });
    });

    test('ollama: num_predict -1 ends with the text or the context', async () => {
        const got = await generate({ raw: true, options: { num_predict: -1 } });
        assert.ok(['stop', 'length'].includes(got.done_reason));
        assert.ok(got.eval_count > 32 && got.prompt_eval_count + got.eval_count <= 513,
            `${got.eval_count}`);
    });

    test('ollama: format json, and a schema', async () => {
        const json = await generate({ format: 'json', options: { num_predict: 40 } });
        assert.match(json.response, /^\s*[{[]/);
        for (const options of [{ num_predict: 100 },
            { num_predict: 100, temperature: 1.5, seed: 2 }]) {
            const got = await generate({ format: schema, options });
            assert.ok(city.enum.includes(JSON.parse(got.response).city));
            const { message } = await chat({ format: schema, options });
            assert.ok(city.enum.includes(JSON.parse(message.content).city));
        }
        await fails(generate({ format: 'yaml' }), { status_code: 400 });
        await fails(generate({ format: { type: 'nonsense' } }), { status_code: 400 });
    });

    test('ollama: keep_alive, and loading without a prompt', async () => {
        for (const keep_alive of ['5m', '-1m', 300, -1, '1h30m']) {
            assert.equal((await generate({ keep_alive, options: { num_predict: 1 } })).done, true);
        }
        const loaded = await ollama.generate({ model: await name(), prompt: '' });
        assert.equal(loaded.done_reason, 'load');
        assert.equal(loaded.response, '');
        const unload = await ollama.generate({ model: await name(), prompt: '', keep_alive: 0 });
        assert.equal(unload.done_reason, 'unload');
        assert.equal((await ollama.chat({ model: await name(), messages: [] })).done_reason,
            'load');
        await fails(generate({ keep_alive: 'soon' }), { status_code: 400 });
    });

    /* --- Chat --- */

    test('ollama: a chat answer is the text of forebay run for the rendered prompt', async () => {
        const want = await forebayRun(program, model,
            [...placement, '-p', chatml(STORY), '-n', '24']);
        const got = await chat({ options: { num_predict: 24 } });
        assert.equal(got.message.role, 'assistant');
        assert.equal(got.message.content.trim(), want.trim());
        assert.equal(got.done_reason, 'length');
        assert.equal(got.eval_count, 24);
        const parts = await collect(await chat({ stream: true, options: { num_predict: 24 } }));
        assert.equal(parts.map((p) => p.message.content).join(''), got.message.content);
        assert.ok(parts.every((p) => p.message.role === 'assistant'));
        assert.deepEqual(parts.map((p) => p.done).filter(Boolean), [true]);
        assert.equal(parts.at(-1).done_reason, 'length');
    });

    test('ollama: tools, and their results', async () => {
        const tools = [{ type: 'function', function: { name: 'get_weather', description: 'x',
            parameters: schema } }];
        const got = await chat({ tools, options: { num_predict: 16 } });
        assert.equal(got.message.role, 'assistant');
        const tool_calls = [{ function: { name: 'get_weather', arguments: { city: 'Rome' } } }];
        const messages = [
            { role: 'user', content: 'The weather in Rome?' },
            { role: 'assistant', content: '', tool_calls },
            { role: 'tool', tool_name: 'get_weather', content: '21 degrees' },
        ];
        assert.equal((await chat({ messages, tools, options: { num_predict: 4 } })).eval_count, 4);
        await fails(chat({ tools: [{ type: 'function' }] }), { status_code: 400 });
    });

    test('ollama: an aborted request is cancelled', async () => {
        const mine = client();
        const options = { ...greedy, num_predict: 450, stop: [] };
        const stream = await mine.generate({ model: await name(), prompt: STORY, raw: true,
            stream: true,
            options: { ...options, temperature: 2, top_k: 0, top_p: 1 } });
        let n = 0;
        await fails((async () => {
            for await (const part of stream) {
                if (part && ++n === 3) {
                    mine.abort();
                }
            }
        })(), { name: 'AbortError' });
        await eventually(async () => assert.equal(await running(), 0), 3000);
    });

    /* --- Errors --- */

    test('ollama: features that are not supported are refused by name', async () => {
        const model = await name();
        for (const call of [() => ollama.embed({ model, input: 'x' }),
            () => ollama.embeddings({ model, prompt: 'x' })]) {
            await fails(call(), { status_code: (s) => s === 400 || s === 404 || s === 501,
                message: /embedding/i });
        }
        const others = [() => ollama.pull({ model: 'x' }),
            () => ollama.create({ model: 'x', from: 'y' }),
            () => ollama.push({ model: 'x' }), () => ollama.delete({ model: 'x' }),
            () => ollama.copy({ source: 'x', destination: 'y' })];
        for (const call of others) {
            await fails(call(), { status_code: (s) => s >= 400 && s < 500,
                error: (e) => typeof e === 'string' });
        }
        await fails(generate({ images: ['AAAA'] }), { status_code: 400 });
        await fails(generate({ suffix: 'the end' }), { status_code: 400 });
    });

    test('ollama: an unknown model is refused with 404', async () => {
        for (const call of [() => generate({ model: 'nix' }), () => chat({ model: 'nix' }),
            () => ollama.show({ model: 'nix' })]) {
            await fails(call(), { status_code: 404, error: /model.*nix.*not found/ });
        }
    });

    test('ollama: a wrong or missing key is refused', async () => {
        await fails(client({}).list(), { status_code: 401, error: (e) => typeof e === 'string' });
        await fails(client({ authorization: 'Bearer guess' }).list(), { status_code: 401 });
    });

    test('ollama: wrong parameters are refused with 400', async () => {
        const model = await name();
        const bad = [
            { prompt: 5 }, { options: 5 }, { options: { temperature: 'x' } },
            { options: { num_predict: 'x' } },
            { options: { num_predict: -9 } }, { options: { stop: 5 } }, { options: { stop: [5] } },
            { options: { seed: {} } }, { options: { top_p: 'x' } }, { options: { top_k: 1.5 } },
            { options: { temperature: -1 } }, { options: { repeat_penalty: -1 } },
            { system: 5 }, { template: 5 }, { raw: 'yes' }, { stream: 'yes' }, { format: 5 },
            { keep_alive: {} },
            { model: 5 }, { context: 'x' },
        ];
        for (const more of bad) {
            const error = await fails(
                ollama.generate({ model, prompt: 'x', ...more }), {}).catch((e) => e);
            assert.equal(error.status_code, 400, `${JSON.stringify(more)}: ${error.message}`);
        }
        for (const messages of [5, [5], [{}], [{ role: 'user', content: 5 }],
            [{ role: 'wizard', content: 'x' }],
            [{ role: 'user', content: 'x', images: ['AAAA'] }]]) {
            // The client reads the messages itself, so this is sent without it.
            const response = await fetch(`${server.url}/api/chat`,
                { method: 'POST', headers: server.headers,
                    body: JSON.stringify({ model, messages, stream: false }) });
            assert.equal(response.status, 400, JSON.stringify(messages));
            assert.equal(typeof (await response.json()).error, 'string');
        }
    });
}
