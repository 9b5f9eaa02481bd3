// server.mjs - starts and stops `forebay serve` on a free loopback port; runs `forebay run`.
import { execFile, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { promisify } from 'node:util';

process.env.FOREBAY_CACHE_DIR = '/dev/null/none'; // no cache directory
const LIMITER = new URL('../../scripts/limit.sh', import.meta.url).pathname;
const LOAD_MS = 60000;
const STOP_MS = 10000;

// True if a process can be put into a container of that size.
export function canLimit(size) {
    return spawnSync(LIMITER, [size], { stdio: 'ignore' }).status === 0;
}

// The process that a shell waits for.
function childOf(pid) {
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0]);
}

function freePort() {
    return new Promise((resolve, reject) => {
        const probe = createServer();
        probe.on('error', reject);
        probe.listen(0, '127.0.0.1', () => {
            const { port } = probe.address();
            probe.close(() => resolve(port));
        });
    });
}

export class Server {
    // Starts the program and returns when /health is 200; in a container of `limit` if that is set.
    static async start(program, model, options, limit) {
        const port = await freePort();
        /* Reuse is seen in prompts of less than a batch only with --reuse all. */
        const args = ['serve', model, '--port', String(port), '--reuse', 'all', ...options];
        const server = new Server();
        server.url = `http://127.0.0.1:${port}`;
        server.port = port;
        server.log = '';
        const command = limit ? [LIMITER, limit, program, ...args] : [program, ...args];
        server.child = spawn(command[0], command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
        server.ended = new Promise((resolve) => {
            server.child.on('exit', (code, signal) => resolve({ code, signal }));
        });
        for (const stream of [server.child.stdout, server.child.stderr]) {
            stream.on('data', (data) => (server.log += data));
        }
        process.on('exit', () => server.kill('SIGKILL')); // in any case
        await server.ready();
        server.pid = limit ? childOf(server.child.pid) : server.child.pid;
        return server;
    }

    async ready() {
        const end = Date.now() + LOAD_MS;
        while (this.child.exitCode === null && Date.now() < end) {
            const health = await fetch(`${this.url}/health`).catch(() => null);
            if (health?.ok) {
                return;
            }
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
        throw new Error(`the server is not ready:\n${this.log}`);
    }

    // All values of /metrics by name; labels are part of the name.
    async metrics() {
        const text = await (await fetch(`${this.url}/metrics`, { headers: this.headers })).text();
        const figures = {};
        for (const line of text.split('\n')) {
            const found = /^([a-z_:]+(?:\{.*\})?) (\S+)$/.exec(line);
            if (found) {
                figures[found[1]] = Number(found[2]);
            }
        }
        return figures;
    }

    kill(signal) {
        try {
            process.kill(this.pid ?? this.child.pid, signal);
        } catch {
            // it has ended
        }
    }

    // Sends SIGTERM. Returns {code, signal} of the end; SIGKILL follows after STOP_MS.
    async stop() {
        this.kill('SIGTERM');
        const timer = setTimeout(() => this.kill('SIGKILL'), STOP_MS);
        const how = await this.ended;
        clearTimeout(timer);
        return how;
    }
}

// The text that `forebay run` writes, without the newline that it appends.
export async function forebayRun(program, model, args) {
    const { stdout } = await promisify(execFile)(program, ['run', model, '-q', ...args]);
    return stdout.replace(/\n$/, '');
}
