/*
 * serve.c - forebay serve: the APIs of OpenAI, Ollama and Anthropic on one model.
 *
 *      options -> plan, announced -> load the model -> service (serve/service.h)
 *              -> HTTP server (serve/server.h) -> SIGINT or SIGTERM -> drain -> stop
 *
 * The first signal stops accepting requests and lets active ones finish within --drain seconds; a
 * second one stops at once.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/figures.h"
#include "cmd/progress.h"
#include "cmd/shared_options.h"
#include "serve/server.h"

#define PARALLEL_DEFAULT 4
#define KV_MAX_DEFAULT   (8 * FB_GIB)
#define TICK_US          50000

struct serve_options {
    const char *path;
    const char *template_path;
    char *template_text;
    bool quiet, verbose;
    uint32_t port, parallel, queue, connections, timeout_s, drain_s;
    char name[256];
    const char *name_given;
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
        {CMD_STRING, 0, "host", "HOST", "name or address to listen on (default 127.0.0.1)",
            .target = &o->server.host},
        {CMD_UINT32, 0, "port", "N", "port (default 8080); 0: any free one", .target = &o->port,
            .min = 0, .max = 65535},
        {CMD_STRING, 0, "api-key", "KEY",
            "key that clients must send (default: $FOREBAY_API_KEY, if set)",
            .target = &o->server.api_key},
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
            "time that active requests get to finish after SIGTERM (default 30)",
            .target = &o->drain_s, .min = 0, .max = 86400},
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
    return cmd_parse(&spec, argc, argv, &o->path, NULL);
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
    bool v6 = strchr(o->server.host, ':') != NULL;
    fprintf(stderr,
        "%s http://%s%s%s:%u  (OpenAI: /v1, Ollama: /api, Anthropic: /v1/messages%s)%s\n",
        ready ? "serving:" : "loading:", v6 ? "[" : "", o->server.host, v6 ? "]" : "", port,
        o->server.api_key ? "; with an API key" : "", ready ? "" : " when loaded");
    fflush(stderr);
}

static enum forebay_status announce(struct serve_options *o, struct forebay_error *err)
{
    struct forebay_plan *plan;
    enum forebay_status status = forebay_plan_new(o->path, &o->model, &plan, err);
    if (status == FOREBAY_OK && !o->quiet) {
        print_plan(o, plan);
        print_endpoint(o, o->server.port, false);
    }
    if (status == FOREBAY_OK) {
        forebay_plan_free(plan);
    }
    return status;
}

/* --- Serving ------------------------------------------------------------------------------- */

/* Serves until a signal; then until no request is left, the drain time is over, or a second signal
 * arrives. */
static void serve(const struct serve_options *o, struct fb_service *service)
{
    while (signals == 0) {
        usleep(TICK_US);
    }
    if (!o->quiet) {
        fprintf(stderr, "stopping: new requests are refused, active ones have %u s to finish\n",
            o->drain_s);
    }
    fb_service_drain(service);
    uint64_t until = fb_now_ns() + (uint64_t)o->drain_s * 1000000000u;
    while (signals < 2 && fb_now_ns() < until && !fb_service_is_empty(service)) {
        usleep(TICK_US);
    }
    usleep(4 * TICK_US); /* time to send the last bytes */
}

static void handle_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
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
    enum forebay_status status = announce(o, err);
    progress_end(&line);
    if (status == FOREBAY_OK) {
        status = forebay_model_load(o->path, &o->model, &model, err);
        progress_end(&line);
    }
    if (status == FOREBAY_OK) {
        status = fb_service_new(model, &o->service, &service, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_server_start(service, &o->server, &server, err);
    }
    if (status == FOREBAY_OK) {
        handle_signals();
        if (!o->quiet) {
            struct forebay_placement placement;
            forebay_model_placement(model, &placement);
            figures_print_context(stderr, &placement);
            print_endpoint(o, fb_server_port(server), true);
        }
        serve(o, service);
    }
    fb_server_stop(server);
    fb_service_free(service);
    forebay_model_free(model);
    return status;
}

int cmd_serve(int argc, char **argv)
{
    struct serve_options o = {.port = 8080,
        .parallel = PARALLEL_DEFAULT,
        .queue = 64,
        .connections = 128,
        .timeout_s = 60,
        .drain_s = 30};
    struct forebay_error err;
    forebay_model_options_init(&o.model);
    fb_server_options_init(&o.server);
    o.server.api_key = getenv("FOREBAY_API_KEY");
    o.service.kv_max_bytes = KV_MAX_DEFAULT;
    int rc = parse(argc, argv, &o);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (o.verbose) {
        forebay_log_set_level(FOREBAY_LOG_DEBUG);
    }
    o.server.api_key = o.server.api_key && o.server.api_key[0] ? o.server.api_key : NULL;
    o.server.port = (uint16_t)o.port;
    o.server.connections_max = (int)o.connections;
    o.server.timeout_s = (int)o.timeout_s;
    o.service.parallel = (int)o.parallel;
    o.service.queue_max = (int)o.queue;
    o.model.n_seq = o.parallel;
    o.model.n_kept = o.parallel > 4 ? o.parallel : 4;
    name_model(&o);
    enum forebay_status status = read_template(&o, &err);
    if (status == FOREBAY_OK) {
        status = run(&o, &err);
    }
    free(o.template_text);
    return status == FOREBAY_OK ? CMD_OK : cmd_fail(&err);
}
