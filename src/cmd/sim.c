/*
 * sim.c - forebay sim: replays a routing trace through the cache on a simulated disk (sim/sim.h).
 *
 * Parses the options, runs fb_sim_run, and prints its report as text or JSON.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/utf8.h"
#include "sim/sim.h"

/* --- Text --------------------------------------------------------------------------------- */

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static double per_token(double value, const struct fb_sim_figures *f)
{
    return f->tokens ? value / (double)f->tokens : 0;
}

static double tok_per_s(const struct fb_sim_figures *f)
{
    return f->seconds > 0 ? (double)f->tokens / f->seconds : 0;
}

/* Over both levels, where there is a device. */
static uint64_t all_requests(const struct fb_sim_figures *f)
{
    return f->device_requests ? f->device_requests : f->requests;
}

static void print_inputs(const struct fb_sim_report *r, const struct fb_sim_options *o)
{
    printf("%-9s %s\n%-9s %s\n", "model", r->model, "trace", r->trace);
    printf("%-9s %" PRIu64 " decode tokens after a warm-up of %d", "tokens", r->decode.tokens,
        r->warm_up);
    if (o->prefill) {
        printf(", and %" PRIu64 " prefill tokens", r->prefill.tokens);
    }
    if (r->n_device_slots) {
        printf("\n%-9s %d slots for %d experts (%s), uploads at %.4g GB/s", "device",
            r->n_device_slots, r->n_experts, FB_SIZE(r->device_slot_bytes),
            o->upload_bytes_per_s * 1e-9);
    }
    printf("\n%-9s %d slots for %d experts (%s", "memory", r->n_slots, r->n_experts,
        FB_SIZE(r->cache_bytes));
    printf("%s)", r->shared ? ", one pool for all layers" : "");
    if (r->resident_bytes) {
        printf(", %s of other weights", FB_SIZE(r->resident_bytes));
    }
    printf("; %s in total\n", FB_SIZE(r->memory_bytes));
    printf("%-9s %.4g GB/s, %.4g us per read; computing: %.4g ms per token", "disk",
        r->disk_bytes_per_s * 1e-9, o->latency_s * 1e6, o->compute_s * 1e3);
    if (o->lookahead) {
        printf("; lookahead: %d layer%s", o->lookahead, o->lookahead == 1 ? "" : "s");
    }
    printf("\n");
}

static void print_hits(
    uint64_t requests, uint64_t hits, uint64_t device_hits, uint64_t optimum_hits)
{
    uint64_t all = device_hits + requests;
    printf("%5.1f %%  %5.1f %%  %5.1f %%\n", percent(hits, requests),
        percent(device_hits + hits, all), percent(optimum_hits, all));
}

/* Of the device, of the memory (its share of the requests that the device passes on), of both. */
static void print_levels(const struct fb_sim_report *r)
{
    printf("\nhit rate  device     hits   slots  %7s     both  optimum\n", r->policy);
    for (int i = 0; i < r->n_layers; i++) {
        const struct fb_sim_layer *l = &r->layers[i];
        char slots[16] = "shared";
        if (l->slots) {
            snprintf(slots, sizeof slots, "%d", l->slots);
        }
        printf("layer %-3d %6d  %5.1f %%  %6s  ", l->layer, l->device_slots,
            percent(l->device_hits, l->device_requests), slots);
        print_hits(l->requests, l->hits, l->device_hits, l->optimum_hits);
    }
    printf("all       %6d  %5.1f %%  %6d  ", r->n_device_slots,
        percent(r->decode.device_hits, r->decode.device_requests), r->n_slots);
    print_hits(r->decode.requests, r->decode.hits, r->decode.device_hits, r->optimum_hits);
}

static void print_layers(const struct fb_sim_report *r)
{
    if (r->n_device_slots) {
        print_levels(r);
        return;
    }
    printf("\nhit rate   slots  %7s  optimum\n", r->policy);
    for (int i = 0; i < r->n_layers; i++) {
        const struct fb_sim_layer *l = &r->layers[i];
        char slots[16] = "shared";
        if (l->slots) {
            snprintf(slots, sizeof slots, "%d", l->slots);
        }
        printf("layer %-3d %6s  %5.1f %%  %5.1f %%\n", l->layer, slots,
            percent(l->hits, l->requests), percent(l->optimum_hits, l->requests));
    }
    printf("all       %6d  %5.1f %%  %5.1f %%\n", r->n_slots,
        percent(r->decode.hits, r->decode.requests), percent(r->optimum_hits, r->decode.requests));
}

static void print_decode(const struct fb_sim_report *r)
{
    const struct fb_sim_figures *f = &r->decode;
    printf("\na token reads %s of experts (optimum: %s)",
        FB_SIZE((uint64_t)per_token((double)f->expert_bytes, f)),
        FB_SIZE((uint64_t)per_token((double)r->optimum_bytes, f)));
    if (f->dense_bytes) {
        printf(" and %s of other weights", FB_SIZE((uint64_t)per_token((double)f->dense_bytes, f)));
    }
    if (r->n_device_slots) {
        printf("; %s are uploaded, %s copied back",
            FB_SIZE((uint64_t)per_token((double)f->upload_bytes, f)),
            FB_SIZE((uint64_t)per_token((double)f->back_bytes, f)));
    }
    printf("\nestimate: %.2f tokens/s; a token takes %.2f ms, including %.2f ms stalled on reads",
        tok_per_s(f), per_token(f->seconds, f) * 1e3, per_token(f->stall_s, f) * 1e3);
    if (r->n_device_slots) {
        printf(" and %.2f ms of copying", per_token(f->copy_s, f) * 1e3);
    }
    printf("\n");
}

static void print_prefill(const struct fb_sim_figures *p)
{
    uint64_t all = all_requests(p);
    printf("prefill: %.2f tokens/s; %s read, %.1f %% of %" PRIu64 " expert requests were hits",
        tok_per_s(p), FB_SIZE(p->expert_bytes + p->dense_bytes),
        percent(p->device_hits + p->hits, all), all);
    if (p->device_requests) {
        printf(", %.1f %% on the device; %s uploaded", percent(p->device_hits, all),
            FB_SIZE(p->upload_bytes));
    }
    printf("\n");
}

static int report_text(const struct fb_sim_report *r, const struct fb_sim_options *o)
{
    print_inputs(r, o);
    if (r->decode.tokens) {
        print_layers(r);
        print_decode(r);
    }
    if (r->prefill.tokens) {
        print_prefill(&r->prefill);
    }
    return CMD_OK;
}

/* --- JSON --------------------------------------------------------------------------------- */

static void set_integer(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_real(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, json_real(value));
}

static void set_text(json_t *object, const char *key, const char *text)
{
    json_object_set_new(object, key, utf8_json(text));
}

/* What the device adds to the figures. */
static void set_device(json_t *o, const struct fb_sim_figures *f)
{
    set_integer(o, "device_requests", f->device_requests);
    set_integer(o, "device_hits", f->device_hits);
    set_real(o, "device_hit_rate", percent(f->device_hits, f->device_requests) / 100);
    set_integer(o, "device_copy_bytes", f->upload_bytes);
    set_real(o, "device_copy_bytes_per_token", per_token((double)f->upload_bytes, f));
    set_integer(o, "device_back_bytes", f->back_bytes);
    set_real(o, "device_back_bytes_per_token", per_token((double)f->back_bytes, f));
    set_real(o, "device_copy_s", f->copy_s);
}

static json_t *figures_json(const struct fb_sim_figures *f, bool device)
{
    json_t *o = json_object();
    set_integer(o, "tokens", f->tokens);
    set_integer(o, "expert_requests", f->requests);
    set_integer(o, "expert_hits", f->hits);
    set_real(o, "hit_rate", percent(f->hits, f->requests) / 100);
    set_integer(o, "expert_read_bytes", f->expert_bytes);
    set_integer(o, "dense_read_bytes", f->dense_bytes);
    set_real(o, "read_bytes_per_token", per_token((double)(f->expert_bytes + f->dense_bytes), f));
    set_real(o, "seconds", f->seconds);
    set_real(o, "stall_s", f->stall_s);
    set_real(o, "tok_per_s", tok_per_s(f));
    if (device) {
        set_device(o, f);
    }
    return o;
}

static json_t *layers_json(const struct fb_sim_report *r)
{
    json_t *list = json_array();
    for (int i = 0; i < r->n_layers; i++) {
        const struct fb_sim_layer *l = &r->layers[i];
        json_t *o = json_object();
        set_integer(o, "layer", (uint64_t)l->layer);
        set_integer(o, "slots", (uint64_t)l->slots);
        set_integer(o, "expert_bytes", l->expert_bytes);
        set_integer(o, "expert_requests", l->requests);
        set_integer(o, "expert_hits", l->hits);
        set_real(o, "hit_rate", percent(l->hits, l->requests) / 100);
        uint64_t all = l->device_requests ? l->device_requests : l->requests;
        set_real(o, "optimum_hit_rate", percent(l->optimum_hits, all) / 100);
        if (r->n_device_slots) {
            set_integer(o, "device_slots", (uint64_t)l->device_slots);
            set_integer(o, "device_requests", l->device_requests);
            set_integer(o, "device_hits", l->device_hits);
        }
        json_array_append_new(list, o);
    }
    return list;
}

static int report_json(const struct fb_sim_report *r, const struct fb_sim_options *o)
{
    bool device = r->n_device_slots > 0;
    json_t *root = json_object();
    json_t *best = json_object();
    set_text(root, "model", r->model);
    set_text(root, "trace", r->trace);
    set_text(root, "policy", r->policy);
    set_integer(root, "warm_up_tokens", (uint64_t)r->warm_up);
    set_integer(root, "slots", (uint64_t)r->n_slots);
    set_integer(root, "experts", (uint64_t)r->n_experts);
    json_object_set_new(root, "shared_pool", json_boolean(r->shared));
    set_integer(root, "cache_bytes", r->cache_bytes);
    set_integer(root, "resident_bytes", r->resident_bytes);
    set_integer(root, "memory_bytes", r->memory_bytes);
    set_real(root, "disk_bytes_per_s", r->disk_bytes_per_s);
    set_real(root, "latency_s", o->latency_s);
    set_real(root, "compute_s_per_token", o->compute_s);
    set_integer(root, "lookahead", (uint64_t)o->lookahead);
    if (device) {
        set_integer(root, "device_slots", (uint64_t)r->n_device_slots);
        set_integer(root, "device_slot_bytes", r->device_slot_bytes);
        set_real(root, "upload_bytes_per_s", o->upload_bytes_per_s);
    }
    json_object_set_new(root, "decode", figures_json(&r->decode, device));
    set_integer(best, "expert_hits", r->optimum_hits);
    set_real(best, "hit_rate", percent(r->optimum_hits, all_requests(&r->decode)) / 100);
    set_integer(best, "expert_read_bytes", r->optimum_bytes);
    set_real(best, "read_bytes_per_token",
        per_token((double)(r->optimum_bytes + r->decode.dense_bytes), &r->decode));
    json_object_set_new(root, "optimum", best);
    json_object_set_new(root, "warm_up", figures_json(&r->warm, device));
    json_object_set_new(root, "prefill", figures_json(&r->prefill, device));
    json_object_set_new(root, "layers", layers_json(r));
    bool ok = json_dumpf(
                  root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) == 0;
    putchar('\n');
    json_decref(root);
    return ok ? CMD_OK : CMD_FAILED;
}

/* --- The command -------------------------------------------------------------------------- */

static int simulate(
    const char *model, const char *trace, const struct fb_sim_options *options, bool json)
{
    struct fb_sim_report report;
    struct forebay_error err;
    if (fb_sim_run(model, trace, options, &report, &err) != FOREBAY_OK) {
        return cmd_fail(&err);
    }
    int rc = json ? report_json(&report, options) : report_text(&report, options);
    fb_sim_report_release(&report);
    return rc;
}

int cmd_sim(int argc, char **argv)
{
    struct fb_sim_options o;
    const char *model, *trace = NULL;
    bool json = false;
    float compute_ms = 0, latency_us = 100;
    char policies[96];
    fb_sim_options_init(&o);
    uint64_t disk = (uint64_t)o.disk_bytes_per_s, upload = (uint64_t)o.upload_bytes_per_s;
    snprintf(
        policies, sizeof policies, "cache policy: %s (default: as for run)", fb_sim_policy_names());
    const struct cmd_option options[] = {{CMD_GROUP, .help = "Input"},
        {CMD_STRING, 0, "trace", "FILE", "routing trace (required)", .target = &trace},
        {CMD_INT, 0, "warm-up", "N",
            "number of decode tokens that fill the cache, not counted (default: a quarter of them, "
            "at most 64)",
            .target = &o.warm_up, .min = 0, .max = 1e9},
        {CMD_FLAG, 0, "prefill", NULL, "replay prefill tokens, too", .target = &o.prefill},
        {CMD_GROUP, .help = "Memory (one of --mem and --slots)"},
        {CMD_SIZE, 0, "mem", "SIZE", "memory limit of the weights, like --weights-mem of run",
            .target = &o.mem_bytes, .min = 1, .max = 0x1p62},
        {CMD_INT, 0, "slots", "N", "expert slots per layer; all other weights are resident",
            .target = &o.slots, .min = 1, .max = 1024},
        {CMD_FLAG, 0, "repack", NULL, "plan memory for repacked weights", .target = &o.repack},
        {CMD_GROUP, .help = "Device that computes all experts from slots (one of --device-mem and "
                            "--device-slots)"},
        {CMD_SIZE, 0, "device-mem", "SIZE", "memory limit of its slots and of the transit to them",
            .target = &o.device_bytes, .min = 1, .max = 0x1p62},
        {CMD_INT, 0, "device-slots", "N", "its slots per layer", .target = &o.device_slots,
            .min = 1, .max = 1024},
        {CMD_RATE, 0, "upload", "RATE", "speed of copying to it; default: 25G", .target = &upload,
            .min = 1e3, .max = 1e15},
        {CMD_GROUP, .help = "Machine"},
        {CMD_STRING, 0, "policy", "NAME", policies, .target = &o.policy},
        {CMD_RATE, 0, "disk", "RATE", "speed of the disk: " CMD_RATE_HELP "; default: 1.8G",
            .target = &disk, .min = 1e3, .max = 1e15},
        {CMD_FLOAT, 0, "latency", "US", "latency of a read in microseconds (default 100)",
            .target = &latency_us, .min = 0, .max = 1e6},
        {CMD_FLOAT, 0, "compute", "MS", "compute time of a token in milliseconds (default 0)",
            .target = &compute_ms, .min = 0, .max = 1e6},
        {CMD_INT, 0, "lookahead", "N",
            "prefetch the experts of the next N layers, with all guesses correct (default 0)",
            .target = &o.lookahead, .min = 0, .max = 1024},
        {CMD_GROUP, .help = "Output"}, {CMD_FLAG, 0, "json", NULL, "print JSON", .target = &json},
        {0}};
    const struct cmd_spec spec = {"sim", "MODEL|SHAPE --trace FILE --mem SIZE|--slots N [options]",
        "Replays a routing trace through the cache on a simulated disk: hit rates, bytes read and "
        "estimated speed, next to Belady's optimum, which knows the future. Reads no weights and "
        "allocates no memory for them.",
        options, 1, 1,
        "MODEL is a GGUF file. SHAPE is LAYERSxEXPERTS,USED,BYTES: 48x128,6,2.6M is 48 layers of "
        "128 experts of 2.6 MiB, of which a token uses 6. The trace must have these numbers of "
        "layers and experts, and may use fewer experts per token; forebay run --trace-out FILE "
        "records one. docs/SIM.md explains the figures."};
    int rc = cmd_parse(&spec, argc, argv, &model, NULL);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (!trace) {
        return cmd_usage_error(&spec, "missing option --trace FILE");
    }
    if (!o.mem_bytes == !o.slots) {
        return cmd_usage_error(&spec, "expected one of --mem and --slots");
    }
    if (o.device_bytes && o.device_slots) {
        return cmd_usage_error(&spec, "expected at most one of --device-mem and --device-slots");
    }
    o.disk_bytes_per_s = (double)disk;
    o.upload_bytes_per_s = (double)upload;
    o.compute_s = (double)compute_ms * 1e-3;
    o.latency_s = (double)latency_us * 1e-6;
    return simulate(model, trace, &o, json);
}
