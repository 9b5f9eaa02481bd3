// main.mjs - unmodified client libraries, which many tools are built on, against a live server with
// a streamed model.
//   node tests/clients/main.mjs FOREBAY MODEL CLIENTS [FILTER]
// FOREBAY is the program, MODEL stories260K-moe8.gguf, CLIENTS where scripts/fetch-clients.sh put
// them. Starts a server of its own and ends it; reports in TAP.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { httpTests } from './http.mjs';
import { ollamaTests } from './ollama.mjs';
import { openaiTests } from './openai.mjs';
import { Server } from './server.mjs';
import { runTests } from './tap.mjs';

const TEST_LIMIT_MS = 20000;
const [program, model, clients, filter] = process.argv.slice(2);

if (!existsSync(join(clients, 'node_modules/openai'))) {
    console.log('1..0 # SKIP no clients: scripts/fetch-clients.sh installs them');
    process.exit(0);
}
const require = createRequire(join(resolve(clients), 'package.json'));

// Less than half of the weights fit, so every token reads.
const placement = ['--weights-mem', '2500K', '-t', '1'];
// llama.cpp's default template, with tools.
const template = fileURLToPath(new URL('tools.jinja', import.meta.url));
const options = ['--chat-template', template, '--ctx', '512', '--parallel', '4',
    '--api-key', 'sesame', ...placement];

const server = await Server.start(program, model, options);
server.headers = { authorization: 'Bearer sesame' };
const context = { require, server, program, model, placement };

httpTests(context);
openaiTests(context);
ollamaTests(context);
const passed = await runTests({ limitMs: TEST_LIMIT_MS, filter });
const { code, signal } = await server.stop();
if (code !== 0) {
    console.log(`# the server ended badly: exit code ${code}, signal ${signal}`);
}
if (code !== 0 || !passed) {
    console.log(server.log.replace(/^/gm, '# server: '));
    process.exit(1);
}
