/*
 * serve.c - forebay serve: the APIs of OpenAI, Ollama and Anthropic on one model.
 *
 *      options -> listen (serve/server.h) -> plan, announced -> load the model
 *              -> service (serve/service.h) -> serve -> SIGINT, SIGTERM or SIGHUP -> drain -> stop
 *
 * The first signal stops accepting requests and gives active ones --drain seconds to finish; then
 * they are cut off. A second one cuts them off at once. A thread ends the process if it still runs
 * some seconds later, whatever the others are doing: code of llama.cpp may run for long, and cannot
 * be interrupted. Nothing is lost by that but states of conversations that are not stored yet; a
 * file of states appears complete or not at all (serve/kv_store.h).
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/progress.h"
#include "cmd/shared_options.h"
#include "serve/server.h"

#define PARALLEL_DEFAULT 4
#define KV_MAX_DEFAULT   (8 * FB_GIB)
#define TICK_US          50000
#define SECOND_NS        ((uint64_t)1000000000)
#define END_NS           (4 * SECOND_NS) /* from the end of the drain to that of the process */
#define HURRY_NS         (1 * SECOND_NS) /* the same after a second signal */

/* Memory for requests: a part of --mem. */
#define REQUESTS_SHARE     16
#define REQUESTS_MIN_BYTES (16 * FB_MIB)
#define REQUESTS_MAX_BYTES FB_GIB

struct serve_options {
    const char *path;
    const char *template_path;
    char *template_text;
    bool quiet, verbose;
    uint32_t port, parallel, queue, connections, timeout_s, drain_s;
    char name[256];
    const char *name_given;
    const char *reuse;
    struct forebay_model_options model;
    struct fb_server_options server;
    struct fb_service_options service;
};

static volatile sig_atomic_t signals; /* number received; 1: drain, 2 and more: stop */

static void on_signal(int sig)
{
    (void)sig;
    signals++;
}

/* --- Options ------------------------------------------------------------------------------- */

static int parse(int argc, char **argv, struct serve_options *o)
{
    struct cmd_option options[] = {{CMD_GROUP, .help = "Server"},
        {CMD_STRING, 0, "host", "HOST",
            "name or address to listen on, or unix:PATH (default 127.0.0.1)",
            .target = &o->server.host},
        {CMD_UINT32, 0, "port", "N", "port (default 8080); 0: any free one", .target = &o->port,
            .min = 0, .max = 65535},
        {CMD_STRING, 0, "api-key", "KEY",
            "key that clients must send (default: $FOREBAY_API_KEY, if set)",
            .target = &o->server.api_key},
        {CMD_STRING, 0, "origins", "LIST",
            "origins of web pages and extensions that may use the server, beside those of this "
            "machine: https://a.example, chrome-extension://*, * (default: $FOREBAY_ORIGINS)",
            .target = &o->server.origins},
        {CMD_STRING, 0, "name", "NAME", "name of the model for clients (default: the file's name)",
            .target = &o->name_given},
        {CMD_STRING, 0, "chat-template", "FILE", "Jinja template to use instead of the model's",
            .target = &o->template_path},
        {CMD_FLAG, 0, "client-templates", NULL,
            "accept Jinja templates from clients (Ollama's `template`); a template can use "
            "unlimited time and memory, so only for trusted clients",
            .target = &o->server.client_templates},
        {CMD_GROUP, .help = "Requests"},
        {CMD_UINT32, 'n', "parallel", "N",
            "maximum number of requests computed at once, each with its own --ctx (default 4)",
            .target = &o->parallel, .min = 1, .max = 64},
        {CMD_UINT32, 0, "queue", "N",
            "maximum number of waiting requests; more are refused (default 64)",
            .target = &o->queue, .min = 1, .max = 10000},
        {CMD_UINT32, 0, "connections", "N", "maximum number of open connections (default 128)",
            .target = &o->connections, .min = 1, .max = 10000},
        {CMD_UINT32, 0, "timeout", "SECONDS",
            "time limit for a client to send a request, and to read a reply (default 60)",
            .target = &o->timeout_s, .min = 1, .max = 86400},
        {CMD_SIZE, 0, "body-max", "SIZE", "maximum size of a request (default 16M)",
            .target = &o->server.body_max_bytes, .min = 1024, .max = 0x1p30},
        {CMD_UINT32, 0, "drain", "SECONDS",
            "time that active requests get to finish after SIGTERM, SIGINT or SIGHUP (default 30)",
            .target = &o->drain_s, .min = 0, .max = 86400},
        {CMD_STRING, 0, "reuse", "HOW",
            "what is reused of prompts computed before: exact (the default), so that a request "
            "that is alone has the answer of `forebay run`; or all, which is faster and equal "
            "only up to rounding",
            .target = &o->reuse},
        {CMD_GROUP, .help = "Saved prompts"},
        {CMD_STRING, 0, "kv-dir", "DIR",
            "directory for the KV state of prompts; used after a restart, too",
            .target = &o->service.kv_dir},
        {CMD_SIZE, 0, "kv-size", "SIZE", "size limit of that directory (default 8G)",
            .target = &o->service.kv_max_bytes, .min = 1, .max = 0x1p62},
        CMD_MODEL_OPTIONS(&o->model), {CMD_GROUP, .help = "Output"},
        {CMD_FLAG, 'q', "quiet", NULL, "print only errors", .target = &o->quiet},
        {CMD_FLAG, 'v', "verbose", NULL, "print llama.cpp's messages, too", .target = &o->verbose},
        {0}};
    const struct cmd_spec spec = {"serve", "MODEL [options]",
        "Serves a model that may be bigger than memory through the APIs of OpenAI (/v1), Ollama "
        "(/api) and Anthropic (/v1/messages). Requests share passes over the weights, and common "
        "beginnings of their prompts are computed once.",
        options, 1, 1, NULL};
    int rc = cmd_parse(&spec, argc, argv, &o->path, NULL);
    o->service.reuse_all = strcmp(o->reuse, "all") == 0;
    return rc == CMD_GO_ON && !o->service.reuse_all && strcmp(o->reuse, "exact") != 0
               ? cmd_usage_error(&spec, "--reuse must be exact or all")
               : rc;
}

/* "/models/Qwen3-30B-Q4_K_M-00001-of-00002.gguf" -> "Qwen3-30B-Q4_K_M" */
static void name_model(struct serve_options *o)
{
    const char *base = strrchr(o->path, '/');
    snprintf(o->name, sizeof o->name, "%s",
        o->name_given ? o->name_given
        : base        ? base + 1
                      : o->path);
    if (!o->name_given) {
        char *suffix = strstr(o->name, ".gguf");
        char *split = strstr(o->name, "-00001-of-");
        if (suffix && !suffix[5]) {
            *suffix = 0;
        }
        if (split) {
            *split = 0;
        }
    }
    o->server.name = o->name;
    o->server.path = o->path;
}

static enum forebay_status read_template(struct serve_options *o, struct forebay_error *err)
{
    if (!o->template_path) {
        return FOREBAY_OK;
    }
    FILE *f = fopen(o->template_path, "rb");
    size_t cap = 1 << 20, n = 0;
    o->template_text = fb_xmalloc(cap + 1);
    if (f) {
        n = fread(o->template_text, 1, cap, f);
    }
    bool bad = !f || ferror(f) || !feof(f);
    if (f) {
        fclose(f);
    }
    o->template_text[n] = 0;
    o->server.chat_template = o->template_text;
    return bad ? fb_fail(err, FOREBAY_E_IO,
                     "Check the path given with --chat-template; a template holds less than 1 MiB.",
                     "cannot read %s", o->template_path)
               : FOREBAY_OK;
}

/* --- Announcing ---------------------------------------------------------------------------- */

static void print_plan(const struct serve_options *o, const struct forebay_plan *plan)
{
    struct forebay_placement p;
    struct forebay_speed speed;
    forebay_plan_placement(plan, &p);
    forebay_plan_speed(plan, 0, 1, &speed);
    fprintf(stderr, "model:   %s, %s of weights%s\n", o->name, FB_SIZE(p.weights_bytes),
        p.fits ? "; the model fits" : "");
    fprintf(stderr, "memory:  budget %s; context for %u requests %s", FB_SIZE(p.budget_bytes),
        o->model.n_seq, FB_SIZE(p.kv_bytes));
    if (!p.fits) {
        fprintf(stderr, "; resident weights %s, expert slots %s, read in every pass %s",
            FB_SIZE(p.resident_bytes), FB_SIZE(p.cache_bytes), FB_SIZE(p.streamed_bytes));
    }
    if (speed.decode_tok_per_s > 0) {
        fprintf(stderr, "\nspeed:   about %.1f tokens/s for a single request (limit: %s)",
            speed.decode_tok_per_s, speed.limit ? speed.limit : "computing");
    }
    fprintf(stderr, "\n");
}

static void print_endpoint(const struct serve_options *o, uint16_t port, bool ready)
{
    const char *host = o->server.host;
    bool v6 = strchr(host, ':') != NULL && host[0] != '[';
    char url[512];
    if (port == 0) {
        snprintf(url, sizeof url, "%s", host); /* unix:PATH */
    } else {
        snprintf(url, sizeof url, "http://%s%s%s:%u", v6 ? "[" : "", host, v6 ? "]" : "", port);
    }
    fprintf(stderr, "%s %s  (OpenAI: /v1, Ollama: /api, Anthropic: /v1/messages%s)%s\n",
        ready ? "serving:" : "loading:", url, o->server.api_key ? "; with an API key" : "",
        ready ? "" : " when loaded");
    fflush(stderr);
}

static enum forebay_status announce(
    struct serve_options *o, const struct fb_server *server, struct forebay_error *err)
{
    struct forebay_plan *plan;
    enum forebay_status status = forebay_plan_new(o->path, &o->model, &plan, err);
    if (status == FOREBAY_OK && !o->quiet) {
        print_plan(o, plan);
        print_endpoint(o, fb_server_port(server), false);
    }
    if (status == FOREBAY_OK) {
        forebay_plan_free(plan);
    }
    return status;
}

/* --- Serving ------------------------------------------------------------------------------- */

/* Ends the process if it takes too long to end by itself. Started by the first signal. */
static void *end_process(void *arg)
{
    const struct serve_options *o = arg;
    uint64_t end = fb_now_ns() + o->drain_s * SECOND_NS + END_NS;
    bool hurries = false;
    while (fb_now_ns() < end) {
        if (signals > 1 && !hurries) {
            hurries = true;
            end = fb_min(end, fb_now_ns() + HURRY_NS);
        }
        usleep(TICK_US);
    }
    fprintf(stderr, "forebay: ended by force: something could not be interrupted in time\n");
    _exit(CMD_FAILED);
}

/* Serves until a signal; then until no request is left, the drain time is over, or a second signal
 * arrives. */
static void serve(struct serve_options *o, struct fb_service *service, struct fb_server *server)
{
    pthread_t watchdog;
    while (signals == 0) {
        usleep(TICK_US);
    }
    if (pthread_create(&watchdog, NULL, end_process, o) == 0) {
        pthread_detach(watchdog);
    }
    if (!o->quiet) {
        fprintf(stderr, "stopping: new requests are refused, active ones have %u s to finish\n",
            o->drain_s);
    }
    fb_service_drain(service);
    uint64_t until = fb_now_ns() + o->drain_s * SECOND_NS;
    while (signals < 2 && fb_now_ns() < until && !fb_service_is_empty(service)) {
        usleep(TICK_US);
    }
    fb_server_cancel(server);
}

static void handle_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
        sigaction(SIGHUP, &action, NULL); /* nohup ignores it */
    }
    sigaction(SIGPIPE, &ignore, NULL);
}

/* Without a key, on a network. */
static void warn_open(const struct serve_options *o, const struct fb_server *server)
{
    if (!o->server.api_key && !fb_server_is_local(server)) {
        fb_warn("anyone who can reach %s can use this server: it has no --api-key", o->server.host);
    }
}

static enum forebay_status run(struct serve_options *o, struct forebay_error *err)
{
    struct progress_line line;
    struct forebay_model *model = NULL;
    struct fb_service *service = NULL;
    struct fb_server *server = NULL;
    progress_init(&line, o->quiet);
    o->model.progress = progress_report;
    o->model.progress_user = &line;
    enum forebay_status status = fb_server_open(&o->server, &server, err);
    if (status == FOREBAY_OK) {
        warn_open(o, server);
        status = announce(o, server, err);
        progress_end(&line);
    }
    if (status == FOREBAY_OK) {
        status = forebay_model_load(o->path, &o->model, &model, err);
        progress_end(&line);
    }
    if (status == FOREBAY_OK) {
        status = fb_service_new(model, &o->service, &service, err);
    }
    if (status == FOREBAY_OK) {
        handle_signals();
        status = fb_server_serve(server, service, err);
    }
    if (status == FOREBAY_OK) {
        if (!o->quiet) {
            print_endpoint(o, fb_server_port(server), true);
        }
        serve(o, service, server);
    }
    fb_server_stop(server);
    fb_service_free(service);
    forebay_model_free(model);
    return status;
}

/* A key that a header cannot carry would lock everybody out; an empty one, which is what an unset
 * variable of a script gives, would let everybody in. */
static enum forebay_status check_key(const char *key, const char *from, struct forebay_error *err)
{
    size_t n = strlen(key);
    bool good = n > 0 && key[0] != ' ' && key[n - 1] != ' ';
    for (size_t i = 0; i < n; i++) {
        good = good && (unsigned char)key[i] >= ' ' && key[i] != 0x7f;
    }
    return good ? FOREBAY_OK
                : fb_fail(err, FOREBAY_E_USAGE,
                      "Give a key without control characters and spaces at its ends, or none.",
                      "%s is %s", from, n > 0 ? "no key that clients can send" : "empty");
}

static enum forebay_status read_key(struct serve_options *o, struct forebay_error *err)
{
    const char *from = "--api-key";
    if (!o->server.api_key) {
        o->server.api_key = getenv("FOREBAY_API_KEY");
        from = "FOREBAY_API_KEY";
    }
    return o->server.api_key ? check_key(o->server.api_key, from, err) : FOREBAY_OK;
}

/* Requests get a part of --mem, which the model does not. */
static void divide_memory(struct serve_options *o)
{
    if (o->model.mem_bytes > 0) {
        o->server.requests_bytes = fb_min(
            fb_max(o->model.mem_bytes / REQUESTS_SHARE, REQUESTS_MIN_BYTES), REQUESTS_MAX_BYTES);
    }
    o->model.caller_bytes = o->server.requests_bytes;
}

int cmd_serve(int argc, char **argv)
{
    struct serve_options o = {.port = 8080,
        .parallel = PARALLEL_DEFAULT,
        .queue = 64,
        .connections = 128,
        .timeout_s = 60,
        .drain_s = 30,
        .reuse = "exact"};
    struct forebay_error err;
    forebay_model_options_init(&o.model);
    fb_server_options_init(&o.server);
    o.server.origins = getenv("FOREBAY_ORIGINS");
    o.service.kv_max_bytes = KV_MAX_DEFAULT;
    int rc = parse(argc, argv, &o);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (o.verbose) {
        forebay_log_set_level(FOREBAY_LOG_DEBUG);
    }
    o.server.port = (uint16_t)o.port;
    o.server.connections_max = (int)o.connections;
    o.server.timeout_s = (int)o.timeout_s;
    o.service.parallel = (int)o.parallel;
    o.service.queue_max = (int)o.queue;
    o.model.n_seq = o.parallel;
    o.model.n_kept = o.parallel > 4 ? o.parallel : 4;
    name_model(&o);
    divide_memory(&o);
    enum forebay_status status = read_key(&o, &err);
    if (status == FOREBAY_OK) {
        status = read_template(&o, &err);
    }
    if (status == FOREBAY_OK) {
        status = run(&o, &err);
    }
    free(o.template_text);
    return status == FOREBAY_OK ? CMD_OK : cmd_fail(&err);
}
