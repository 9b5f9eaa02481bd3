// openai.mjs - the server as the `openai` package uses it.
import assert from 'node:assert/strict';

import { forebayRun } from './server.mjs';
import { eventually, fails, test } from './tap.mjs';

const STORY = 'Once upon a time';
const city = { type: 'string', enum: ['Paris', 'Rome', 'Oslo'] };
const schema = { type: 'object', properties: { city }, required: ['city'],
    additionalProperties: false };
const weather = {
    type: 'function',
    function: { name: 'get_weather', description: 'The weather in a city.', parameters: schema },
};

// llama.cpp allows text before a call, and this model would tell stories for ever: a bias on its
// token for "{" makes it begin the JSON.
const call = { tools: [weather], parallel_tool_calls: false, logit_bias: { 126: 100 },
    max_tokens: 200 };

// One user message as llama.cpp renders it for a model without a template.
export function chatml(text) {
    return `<|im_start|>user\n${text}<|im_end|>\n<|im_start|>assistant\n`;
}

async function collect(stream) {
    const chunks = [];
    for await (const chunk of stream) {
        chunks.push(chunk);
    }
    return chunks;
}

export function openaiTests({ require, server, program, model, placement }) {
    const { OpenAI } = require('openai');
    const baseURL = `${server.url}/v1`;
    const client = new OpenAI({ baseURL, apiKey: 'sesame', maxRetries: 0 });
    const name = async () => (await client.models.list()).data[0].id;
    const complete = async (more) =>
        client.completions.create({ model: await name(), prompt: STORY, temperature: 0, ...more });
    const chat = async (more, request) =>
        client.chat.completions.create(
            { model: await name(), messages: [{ role: 'user', content: STORY }], temperature: 0,
                ...more }, request);
    // Requests that are being computed.
    const running = async () => (await server.metrics())['forebay_queue_active'];

    /* --- Models --- */

    test('openai: models', async () => {
        const { data } = await client.models.list();
        assert.equal(data.length, 1);
        assert.equal(data[0].object, 'model');
        assert.equal(typeof data[0].created, 'number');
        assert.equal(typeof data[0].owned_by, 'string');
        assert.equal((await client.models.retrieve(data[0].id)).id, data[0].id);
        await fails(client.models.retrieve('no-such-model'),
            { status: 404, code: 'model_not_found' });
    });

    /* --- Completions --- */

    test('openai: a completion is the text of forebay run', async () => {
        const want = await forebayRun(program, model, [...placement, '-p', STORY, '-n', '32']);
        const got = await complete({ max_tokens: 32 });
        assert.equal(STORY + got.choices[0].text, STORY + want);
        assert.match(got.choices[0].text, /little girl named Lily/);
        assert.equal(got.object, 'text_completion');
        assert.equal(got.choices[0].finish_reason, 'length');
        assert.equal(got.choices[0].index, 0);
        assert.equal(got.usage.completion_tokens, 32);
        assert.ok(got.usage.prompt_tokens >= 4);
        assert.equal(got.usage.total_tokens, got.usage.prompt_tokens + 32);
    });

    test('openai: a streamed completion is the same text', async () => {
        const whole = await complete({ max_tokens: 24 });
        const chunks = await collect(
            await complete(
                { max_tokens: 24, stream: true, stream_options: { include_usage: true } }));
        const choices = chunks.flatMap((c) => c.choices);
        assert.equal(choices.map((c) => c.text).join(''), whole.choices[0].text);
        assert.ok(choices.length > 4, 'streamed in pieces');
        assert.deepEqual(choices.map((c) => c.finish_reason).filter(Boolean), ['length']);
        const last = chunks.at(-1);
        assert.deepEqual(last.choices, []);
        assert.equal(last.usage.completion_tokens, 24);
        assert.equal(last.usage.prompt_tokens, whole.usage.prompt_tokens);
        assert.ok(chunks.slice(0, -1).every((c) => !c.usage));
        assert.ok(chunks.every((c) => c.id === chunks[0].id));
    });

    test('openai: without stream_options no usage is streamed', async () => {
        const chunks = await collect(await complete({ max_tokens: 4, stream: true }));
        assert.ok(chunks.every((c) => !c.usage && c.choices.length === 1));
    });

    test('openai: stop strings end the text, also across tokens', async () => {
        const whole = (await complete({ max_tokens: 40 })).choices[0].text;
        const at = whole.indexOf('girl named');
        for (const stop of ['girl named', ['never said', 'girl named'], ['rl na']]) {
            const got = await complete({ max_tokens: 40, stop });
            assert.equal(got.choices[0].text, whole.slice(0, whole.indexOf([stop].flat().at(-1))));
            assert.equal(got.choices[0].finish_reason, 'stop');
        }
        const chunks = await collect(
            await complete({ max_tokens: 40, stop: 'girl named', stream: true }));
        assert.equal(chunks.map((c) => c.choices[0].text).join(''), whole.slice(0, at));
        assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
    });

    test('openai: the beginning of a stop string is not lost at the end', async () => {
        const whole = (await complete({ max_tokens: 12 })).choices[0].text;
        const got = await complete({ max_tokens: 12, stop: whole.slice(-3) + 'never' });
        assert.equal(got.choices[0].text, whole);
        assert.equal(got.choices[0].finish_reason, 'length');
    });

    test('openai: the same seed gives the same text', async () => {
        const say = async (seed) =>
            (await complete({ temperature: 1.2, seed, max_tokens: 24 })).choices[0].text;
        const first = await say(7);
        assert.equal(await say(7), first);
        assert.notEqual(await say(8), first);
    });

    test('openai: without a seed the text varies', async () => {
        const say = async () =>
            (await complete({ temperature: 1.5, max_tokens: 24 })).choices[0].text;
        assert.notEqual(await say(), await say());
    });

    test('openai: n completions', async () => {
        const got = await complete(
            { n: 3, temperature: 2, top_k: 0, min_p: 0, seed: 5, max_tokens: 16 });
        assert.deepEqual(got.choices.map((c) => c.index), [0, 1, 2]);
        assert.equal(new Set(got.choices.map((c) => c.text)).size, 3);
        assert.equal(got.usage.completion_tokens, 48);
        const again = await complete(
            { n: 3, temperature: 2, top_k: 0, min_p: 0, seed: 5, max_tokens: 16 });
        assert.deepEqual(again.choices.map((c) => c.text), got.choices.map((c) => c.text));
    });

    test('openai: a prompt may be token numbers, or a list of prompts', async () => {
        const want = (await complete({ max_tokens: 8 })).choices[0].text;
        assert.equal((await complete({ prompt: [STORY], max_tokens: 8 })).choices[0].text, want);
        const numbers = await complete({ prompt: [1, 403, 407], max_tokens: 4 });
        assert.equal(numbers.usage.prompt_tokens, 3);
        const several = await complete({ prompt: [STORY, [1, 403, 407]], max_tokens: 4 });
        assert.deepEqual(several.choices.map((c) => c.index), [0, 1]);
        assert.ok(want.startsWith(several.choices[0].text));
        assert.equal(several.choices[1].text, numbers.choices[0].text);
        assert.equal(several.usage.completion_tokens, 8);
        for (const more of [{ prompt: [1, 99999999] }, { echo: true }, { suffix: 'x' }]) {
            await fails(complete({ max_tokens: 4, ...more }), { status: 400 });
        }
    });

    test('openai: logprobs of a completion', async () => {
        const got = await complete({ max_tokens: 6, logprobs: 3 });
        const { tokens, token_logprobs, top_logprobs, text_offset } = got.choices[0].logprobs;
        assert.equal(tokens.length, 6);
        assert.equal(tokens.join(''), got.choices[0].text);
        assert.equal(text_offset.length, 6);
        for (const [i, logprob] of token_logprobs.entries()) {
            const top = Object.values(top_logprobs[i]);
            assert.ok(logprob <= 0 && logprob === Math.max(...top), 'the likeliest was chosen');
            assert.ok(top.length <= 3 && top.reduce((sum, l) => sum + Math.exp(l), 0) <= 1.0001);
        }
        assert.equal((await complete({ max_tokens: 2 })).choices[0].logprobs ?? null, null);
    });

    test('openai: penalties and logit_bias', async () => {
        const plain = (await complete({ max_tokens: 100 })).choices[0].text;
        const unlike = (await complete(
            { max_tokens: 100, frequency_penalty: 2, presence_penalty: 2 })).choices[0].text;
        assert.notEqual(unlike, plain);
        const { choices } = await complete({ max_tokens: 3, logit_bias: { 300: 100 } });
        const forced = await complete({ max_tokens: 1, logit_bias: { 300: 100 } });
        assert.equal(choices[0].text, forced.choices[0].text.repeat(3));
        await fails(complete({ max_tokens: 3, logit_bias: { 99999999: 1 } }), { status: 400 });
    });

    /* --- Chat --- */

    test('openai: a chat answer is the text of forebay run for the rendered prompt', async () => {
        const want = await forebayRun(program, model,
            [...placement, '-p', chatml(STORY), '-n', '24']);
        const got = await chat({ max_tokens: 24 });
        assert.equal(got.choices[0].message.content.trim(), want.trim());
        assert.equal(got.choices[0].message.role, 'assistant');
        assert.equal(got.object, 'chat.completion');
        assert.match(got.id, /^chatcmpl-/);
        assert.ok(Math.abs(got.created - Date.now() / 1000) < 60);
        assert.equal(got.model, await name());
        assert.equal(got.usage.completion_tokens, 24);
        assert.equal(got.choices[0].finish_reason, 'length');
    });

    test('openai: max_completion_tokens, several messages, content parts', async () => {
        const messages = [
            { role: 'system', content: 'Be brief.' },
            { role: 'user', content: 'Tell a story.' },
            { role: 'assistant', content: 'Once upon a time' },
            { role: 'user',
                content: [{ type: 'text', text: 'Go ' }, { type: 'text', text: 'on.' }] },
        ];
        const got = await chat({ messages, max_completion_tokens: 5 });
        assert.equal(got.usage.completion_tokens, 5);
        const developer = [{ role: 'developer', content: 'Be brief.' }, messages[1]];
        const brief = await chat({ messages: developer, max_tokens: 3 });
        assert.equal(brief.usage.completion_tokens, 3);
        const image = { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } };
        await fails(chat({ messages: [{ role: 'user', content: [image] }] }), { status: 400 });
    });

    test('openai: a streamed chat answer is the same text', async () => {
        const whole = await chat({ max_tokens: 24 });
        const chunks = await collect(
            await chat({ max_tokens: 24, stream: true, stream_options: { include_usage: true } }));
        const choices = chunks.flatMap((c) => c.choices);
        assert.equal(choices[0].delta.role, 'assistant');
        assert.equal(choices.map((c) => c.delta.content ?? '').join(''),
            whole.choices[0].message.content);
        assert.deepEqual(choices.map((c) => c.finish_reason).filter(Boolean), ['length']);
        assert.equal(chunks[0].object, 'chat.completion.chunk');
        assert.equal(chunks.at(-1).usage.completion_tokens, 24);
    });

    test('openai: the stream helper assembles the answer', async () => {
        const messages = [{ role: 'user', content: STORY }];
        const stream = client.chat.completions.stream(
            { model: await name(), messages, temperature: 0, max_tokens: 12 });
        const final = await stream.finalChatCompletion();
        const whole = await chat({ max_tokens: 12 });
        assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
    });

    test('openai: logprobs of a chat answer', async () => {
        const got = await chat({ max_tokens: 4, logprobs: true, top_logprobs: 2 });
        const { content } = got.choices[0].logprobs;
        assert.equal(content.length, 4);
        for (const { token, bytes, logprob, top_logprobs } of content) {
            assert.equal(Buffer.from(bytes).toString(), token);
            assert.equal(top_logprobs.length, 2);
            assert.equal(top_logprobs[0].logprob, logprob);
            assert.ok(top_logprobs[1].logprob <= logprob);
        }
        const chunks = await collect(await chat({ max_tokens: 4, logprobs: true, stream: true }));
        const streamed = chunks.flatMap((c) => c.choices.flatMap((d) => d.logprobs?.content ?? []));
        assert.deepEqual(streamed.map((t) => t.token), content.map((t) => t.token));
    });

    test('openai: n chat answers, streamed too', async () => {
        const got = await chat({ n: 2, temperature: 1.2, seed: 3, max_tokens: 12 });
        const texts = got.choices.map((c) => c.message.content);
        assert.notEqual(texts[0], texts[1]);
        const pieces = ['', ''];
        const stream = await chat(
            { n: 2, temperature: 1.2, seed: 3, max_tokens: 12, stream: true });
        for await (const chunk of stream) {
            for (const { index, delta } of chunk.choices) {
                pieces[index] += delta.content ?? '';
            }
        }
        assert.deepEqual(pieces, texts);
    });

    /* --- JSON and tools --- */

    test('openai: response_format json_object', async () => {
        const got = await chat({ response_format: { type: 'json_object' }, max_tokens: 40 });
        const { message, finish_reason } = got.choices[0];
        assert.match(message.content, /^\s*\{/);
        if (finish_reason === 'stop') {
            JSON.parse(message.content);
        }
    });

    test('openai: response_format json_schema', async () => {
        const format = { type: 'json_schema',
            json_schema: { name: 'place', strict: true, schema } };
        for (const temperature of [0, 1.5]) {
            const got = await chat({ response_format: format, temperature, max_tokens: 100 });
            assert.equal(got.choices[0].finish_reason, 'stop');
            assert.ok(city.enum.includes(JSON.parse(got.choices[0].message.content).city));
        }
        const chunks = await collect(
            await chat({ response_format: format, max_tokens: 100, stream: true }));
        JSON.parse(chunks.map((c) => c.choices[0]?.delta.content ?? '').join(''));
    });

    test('openai: parse() with a schema', async () => {
        const response_format = { type: 'json_schema',
            json_schema: { name: 'place', strict: true, schema } };
        const messages = [{ role: 'user', content: 'Where?' }];
        const got = await client.chat.completions.parse(
            { model: await name(), messages, response_format, temperature: 0, max_tokens: 100 });
        assert.ok(city.enum.includes(JSON.parse(got.choices[0].message.content).city));
    });

    test('openai: a required tool is called, and its result taken', async () => {
        const question = { role: 'user', content: 'The weather in Rome?' };
        for (const tool_choice of ['required',
            { type: 'function', function: { name: 'get_weather' } }]) {
            const got = await chat({ ...call, messages: [question], tool_choice });
            const { message, finish_reason } = got.choices[0];
            assert.equal(finish_reason, 'tool_calls');
            assert.equal(message.tool_calls.length, 1);
            const made = message.tool_calls[0];
            assert.equal(made.type, 'function');
            assert.equal(made.function.name, 'get_weather');
            assert.ok(made.id);
            assert.ok(city.enum.includes(JSON.parse(made.function.arguments).city));
            const result = { role: 'tool', tool_call_id: made.id, content: '{"celsius": 21}' };
            const next = await chat(
                { messages: [question, message, result], tools: [weather], max_tokens: 8 });
            assert.equal(next.choices[0].message.role, 'assistant');
        }
    });

    test('openai: a streamed tool call', async () => {
        const chunks = await collect(
            await chat({ ...call, tool_choice: 'required', stream: true }));
        const deltas = chunks.flatMap((c) => c.choices[0]?.delta.tool_calls ?? []);
        assert.ok(deltas.every((d) => d.index === 0));
        assert.equal(deltas[0].function.name, 'get_weather');
        assert.ok(deltas[0].id);
        JSON.parse(deltas.map((d) => d.function?.arguments ?? '').join(''));
        assert.equal(chunks.flatMap((c) => c.choices).at(-1).finish_reason, 'tool_calls');
    });

    test('openai: runTools makes one round', async () => {
        const seen = [];
        const tool = {
            type: 'function',
            function: {
                name: 'get_weather', parameters: schema, parse: JSON.parse,
                function: (args) => { seen.push(args.city); return 'sunny'; },
            },
        };
        const runner = client.chat.completions.runTools(
            { ...call, model: await name(), tools: [tool],
              messages: [{ role: 'user', content: 'Weather?' }],
              tool_choice: { type: 'function', function: { name: 'get_weather' } } });
        await runner.done();
        assert.equal(seen.length, 1);
        assert.ok(city.enum.includes(seen[0]));
    });

    test('openai: tool_choice none calls nothing', async () => {
        const got = await chat({ tools: [weather], tool_choice: 'none', max_tokens: 16 });
        assert.equal(got.choices[0].message.tool_calls ?? null, null);
        assert.equal(typeof got.choices[0].message.content, 'string');
    });

    /* --- Prefixes and batches --- */

    test('openai: a second turn computes only its new tokens', async () => {
        const messages = [{ role: 'user',
            content: 'Tell me about the dragon that lived in a cave by the sea.' }];
        const first = await chat({ messages, max_tokens: 16 });
        messages.push(first.choices[0].message, { role: 'user', content: 'And then?' });
        const second = await chat({ messages, max_tokens: 4 });
        const reused = second.usage.prompt_tokens_details.cached_tokens;
        assert.ok(reused >= first.usage.prompt_tokens,
            `${reused} of ${second.usage.prompt_tokens} reused`);
        assert.ok(reused < second.usage.prompt_tokens);
    });

    test('openai: eight requests at a time get the answers they get alone', async () => {
        const prompts = ['Once upon', 'Lily and Tom', 'The dog', 'A bird', 'One day', 'In the park',
            'Mom said', 'He ran'];
        const say = async (prompt) => (await complete({ prompt, max_tokens: 16 })).choices[0].text;
        const together = await Promise.all(prompts.map(say));
        for (const [i, prompt] of prompts.entries()) {
            assert.equal(together[i], await say(prompt), prompt);
        }
    });

    /* --- Cancelling --- */

    test('openai: a stream that the client leaves is cancelled', async () => {
        const stream = await chat({ max_tokens: 400, stream: true, ignore_eos: true });
        let n = 0;
        for await (const chunk of stream) {
            if (chunk && ++n === 3) {
                break; // closes the connection
            }
        }
        await eventually(async () => assert.equal(await running(), 0), 3000);
    });

    test('openai: an aborted request is cancelled', async () => {
        const abort = new AbortController();
        const answer = chat({ max_tokens: 400, n: 4, ignore_eos: true }, { signal: abort.signal });
        await eventually(async () => assert.ok((await running()) > 0));
        abort.abort();
        await fails(answer, { name: (n) => n !== undefined, message: /abort/i });
        await eventually(async () => assert.equal(await running(), 0), 3000);
    });

    /* --- Errors --- */

    test('openai: a wrong or missing key is refused', async () => {
        const wrong = new OpenAI({ baseURL, apiKey: 'guess', maxRetries: 0 });
        await fails(wrong.models.list(), { status: 401, code: 'invalid_api_key' });
        await fails(wrong.chat.completions.create({ model: 'm', messages: [] }), { status: 401 });
        for (const headers of [{}, { authorization: 'sesame' },
            { authorization: 'Bearer sesame ' + 'x' },
            { authorization: 'Basic c2VzYW1l' }, { authorization: 'Bearer ' }]) {
            const response = await fetch(`${baseURL}/models`, { headers });
            assert.equal(response.status, 401, JSON.stringify(headers));
            assert.equal(typeof (await response.json()).error.message, 'string');
        }
    });

    test('openai: an unknown model is refused with 404', async () => {
        await fails(chat({ model: 'gpt-99' }), { status: 404, code: 'model_not_found',
            message: /gpt-99/ });
        await fails(complete({ model: 'gpt-99' }), { status: 404 });
    });

    test('openai: embeddings are refused by name', async () => {
        await fails(client.embeddings.create({ model: 'any', input: 'text' }),
            { status: (s) => s === 400 || s === 404 || s === 501, message: /embedding/i,
                type: (t) => typeof t === 'string' });
    });

    test('openai: wrong parameters are refused with 400', async () => {
        const bad = [
            { temperature: 'hot' }, { temperature: -1 }, { temperature: 1e30 }, { top_p: 2 },
            { top_p: -0.1 },
            { max_tokens: -5 }, { max_tokens: 'many' }, { max_tokens: 1.5 }, { max_tokens: 1e300 },
            { n: 0 }, { n: 1e6 }, { n: 'two' }, { stop: 5 }, { stop: [5] }, { seed: 'x' },
            { stream: 'yes' },
            { messages: [] }, { messages: 'hello' }, { messages: [{ role: 'user' }] },
            { messages: [{}] },
            { messages: [{ role: 'wizard', content: 'x' }] },
            { messages: [{ role: 5, content: 'x' }] },
            { messages: [{ role: 'user', content: 5 }] }, { messages: [5] }, { messages: [null] },
            { messages: [{ role: 'user', content: [{ type: 'text' }] }] },
            { messages: [{ role: 'user', content: [{ type: 'audio', text: 'x' }] }] },
            { response_format: 'json' }, { response_format: { type: 'yaml' } },
            { response_format: { type: 'json_schema' } },
            { response_format: { type: 'json_schema', json_schema: { name: 'x', schema: 5 } } },
            { response_format: { type: 'json_schema',
                json_schema: { name: 'x', schema: { type: 'nonsense' } } } },
            { tools: 'all' }, { tools: [5] }, { tools: [{ type: 'function' }] },
            { tools: [{ type: 'function', function: { parameters: {} } }] },
            { tools: [weather], tool_choice: 'perhaps' }, { tool_choice: 'required' },
            { tools: [weather], tool_choice: { type: 'function', function: { name: 'other' } } },
            { logprobs: 'yes' }, { logprobs: true, top_logprobs: -1 },
            { logprobs: true, top_logprobs: 1000 },
            { top_logprobs: 2 }, { frequency_penalty: 'a' }, { presence_penalty: 1e9 },
            { logit_bias: { x: 1 } }, { logit_bias: [1] }, { logit_bias: { 5: 'much' } },
        ];
        for (const more of bad) {
            const error = await fails(chat({ max_tokens: 2, ...more }), {}).catch(() => null);
            assert.equal(error?.status, 400, JSON.stringify(more));
            assert.equal(error.type, 'invalid_request_error', JSON.stringify(more));
            assert.equal(typeof error.error.message, 'string');
        }
        for (const more of [{ prompt: 5 }, { prompt: {} }, { prompt: [] }, { prompt: ['a', 5] },
            { logprobs: -1 }, { n: -1 }]) {
            const error = await fails(complete({ max_tokens: 2, ...more }), {}).catch(() => null);
            assert.equal(error?.status, 400, JSON.stringify(more));
        }
    });

    test('openai: unknown parameters are ignored, and null counts as absent', async () => {
        const got = await chat({ max_tokens: 2, user: 'me', store: false, metadata: { a: 'b' },
            service_tier: 'auto', stop: null, seed: null, tools: null, response_format: null,
            logit_bias: null, n: null, stream: null,
            logprobs: null, top_p: null, response_format: { type: 'text' }, x_unknown: [1] });
        assert.equal(got.usage.completion_tokens, 2);
    });

    test('openai: a prompt longer than the context is refused', async () => {
        await fails(complete({ prompt: 'word '.repeat(2000), max_tokens: 2 }),
            { status: 400, code: 'context_length_exceeded', message: /512/ });
    });

    test('openai: generating ends when the context is full', async () => {
        const got = await complete({ max_tokens: 100000, ignore_eos: true });
        assert.equal(got.choices[0].finish_reason, 'length');
        assert.ok(got.usage.total_tokens <= 513 && got.usage.total_tokens >= 511,
            `${got.usage.total_tokens} tokens`);
    });

    test('openai: text is whole characters, whatever is sampled', async () => {
        const stream = await complete(
            { max_tokens: 120, temperature: 2, top_k: 0, min_p: 0, seed: 1, stream: true });
        const response = await complete(
            { max_tokens: 120, temperature: 2, top_k: 0, min_p: 0, seed: 1 });
        let text = '';
        for await (const chunk of stream) {
            text += chunk.choices[0].text;
        }
        assert.equal(text, response.choices[0].text);
        assert.ok(text.isWellFormed?.() ?? true);
    });
}
