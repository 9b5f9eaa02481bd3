/*
 * plan.c - forebay plan: the placement of a model and its estimated speed, without loading it.
 *
 * Each layer is a bar; equal neighbours share one:
 *
 *      0-46 |@@####==============....................| 335 MiB, 45 of 128 experts, 69 % hits
 *            on a device, resident, expert slots, on disk
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/figures.h"
#include "cmd/options.h"
#include "cmd/progress.h"
#include "cmd/shared_options.h"

#define BAR       40
#define MORE      FB_GIB
#define REPACKING 0.1 /* fraction of a token's time from which forebay optimize is suggested */

/* --- Text ---------------------------------------------------------------------------------- */

static void print_line(const char *what, uint64_t bytes, const char *note)
{
    printf("  %-22s %10s  %s\n", what, FB_SIZE(bytes), note);
}

/* Weights that are neither in memory nor on a device for good. */
static uint64_t read_when_needed(const struct forebay_plan *plan, const struct forebay_placement *p)
{
    uint64_t held = p->resident_bytes + p->cache_bytes;
    int n;
    const struct forebay_plan_layer *l = forebay_plan_layers(plan, &n);
    for (int i = 0; i < n; i++) {
        held += l[i].device_bytes;
    }
    return p->weights_bytes - fb_min(p->weights_bytes, held);
}

static void print_memory(const struct forebay_plan *plan, const struct forebay_placement *p)
{
    char note[96];
    uint64_t rest = p->context_bytes;
    rest -= fb_min(rest, p->fixed_bytes + p->kv_bytes + p->compute_bytes);
    printf("memory (budget %s):\n", FB_SIZE(p->budget_bytes));
    print_line("resident weights", p->resident_bytes,
        p->fits && !p->cache_bytes ? "all" : "used by every token");
    if (p->cache_bytes) {
        snprintf(note, sizeof note, "%d of %d experts", p->n_slots, p->n_experts);
        print_line("expert slots", p->cache_bytes, note);
    }
    if (p->lent_bytes) {
        snprintf(note, sizeof note, "of the slots, while a batch of %" PRIu32 " tokens is computed",
            p->batch);
        print_line("  lent", p->lent_bytes, note);
    }
    if (p->ring_bytes) {
        print_line("ring", p->ring_bytes, "buffer for streamed weights");
    }
    print_line("KV cache", p->kv_bytes, "for the whole context");
    print_line("intermediate results", p->compute_bytes, "");
    if (rest) {
        print_line("everything else", rest, "program, tokenizer, reserve");
    }
    printf("disk: %s of %s of weights are read when needed", FB_SIZE(read_when_needed(plan, p)),
        FB_SIZE(p->weights_bytes));
    printf(p->streamed_bytes ? ", %s of them for every token\n" : "\n", FB_SIZE(p->streamed_bytes));
    figures_print_context(stdout, p);
    if (!p->fits) {
        printf(
            "the smallest budget for this model is %" PRIu64 " MiB\n", p->minimum_bytes / FB_MIB);
    }
}

/* Weights of a layer, each once: experts in slots of a device may be in memory, too, and then count
 * there. */
static uint64_t layer_bytes(const struct forebay_plan_layer *l)
{
    return l->device_bytes + l->resident_bytes + l->streamed_bytes +
           fb_max(l->expert_bytes, l->slot_bytes);
}

/* One bar: @ on a device, + its slots beyond those in memory, # resident, = expert slots, . on
 * disk. */
static void print_bar(const struct forebay_plan_layer *l, uint64_t widest)
{
    uint64_t experts = fb_max(l->expert_bytes, l->slot_bytes);
    uint64_t upper = fb_min(l->device_slot_bytes, experts - l->slot_bytes);
    uint64_t parts[5] = {l->device_bytes, upper, l->resident_bytes, l->slot_bytes,
        l->streamed_bytes + experts - l->slot_bytes - upper};
    static const char marks[] = "@+#=.";
    uint64_t sum = 0;
    int at = 0;
    for (int i = 0; i < 5; i++) {
        sum += parts[i];
        int end = (int)((double)sum / (double)widest * BAR + 0.5);
        for (; at < end; at++) {
            putchar(marks[i]);
        }
    }
    printf("%*s", BAR - at, "");
}

static bool same(const struct forebay_plan_layer *a, const struct forebay_plan_layer *b)
{
    return a->device_bytes == b->device_bytes && a->n_device_slots == b->n_device_slots &&
           a->resident_bytes == b->resident_bytes && a->streamed_bytes == b->streamed_bytes &&
           a->n_slots == b->n_slots && a->n_experts == b->n_experts && a->layer >= 0 &&
           b->layer >= 0;
}

static void print_layers(const struct forebay_plan *plan)
{
    int n;
    const struct forebay_plan_layer *l = forebay_plan_layers(plan, &n);
    uint64_t widest = 1;
    bool devices = false;
    for (int i = 0; i < n; i++) {
        widest = fb_max(widest, layer_bytes(&l[i]));
        devices = devices || l[i].device_bytes > 0;
    }
    printf("\nlayers: %s# resident  = expert slots  . on disk\n",
        devices ? "@ on a device  + its slots  " : "");
    for (int i = 0, first; i < n; i++) {
        for (first = i; i + 1 < n && same(&l[first], &l[i + 1]); i++) {
        }
        char name[32];
        if (l[i].layer < 0) {
            snprintf(name, sizeof name, "other");
        } else if (i > first) {
            snprintf(name, sizeof name, "%d-%d", l[first].layer, l[i].layer);
        } else {
            snprintf(name, sizeof name, "%d", l[i].layer);
        }
        printf("%9s |", name);
        print_bar(&l[i], widest);
        printf("| %s", FB_SIZE(layer_bytes(&l[i])));
        if (l[i].n_device_slots) {
            printf(", %d on the device", l[i].n_device_slots);
        }
        if (l[i].n_experts) {
            printf(", %d of %d experts, %.0f %% hits", l[i].n_slots, l[i].n_experts,
                l[i].hit_rate * 100);
        }
        printf("\n");
    }
}

static void print_tiers(const struct forebay_plan *plan, const struct forebay_placement *p)
{
    struct forebay_tier tiers[FOREBAY_DEVICES + 2];
    int n = p->n_devices > 0 ? forebay_plan_tiers(plan, tiers) : 0;
    for (int i = 0; i < n; i++) {
        const struct forebay_tier *t = &tiers[i];
        printf("%s  %-10s dense %10s  KV cache %10s", i ? "" : "\ntiers:\n", t->name,
            FB_SIZE(t->dense_bytes), FB_SIZE(t->kv_bytes));
        if (t->n_slots > 0 || t->requests > 0) {
            printf("  %5d experts %10s  %3.0f %% of requests", t->n_slots, FB_SIZE(t->expert_bytes),
                t->requests * 100);
        }
        printf("\n");
    }
}

static void print_speed(const struct forebay_plan *plan, const struct forebay_placement *p)
{
    struct forebay_speed s, more, faster;
    forebay_plan_speed(plan, 0, 1, &s);
    if (!s.limit) {
        printf("\nestimate: none, because the devices have not been measured (--device-experts "
               "auto does so)\n");
        return;
    }
    printf("\nestimate: %.2f tokens/s (%.2f to %.2f) for generating, %.1f (%.1f to %.1f) for "
           "prompts\n",
        s.decode_tok_per_s, s.decode_low, s.decode_high, s.prompt_tok_per_s, s.prompt_low,
        s.prompt_high);
    printf("          first token after %.1f s with a prompt of a full batch; loading: %.1f s\n",
        s.time_to_first_token_s, s.load_s);
    printf("          based on %s\n",
        s.seen       ? "earlier runs of this model"
        : s.measured ? "measurements of this machine; this model has not run yet"
                     : "typical machines: there is no cache directory to keep measurements in");
    if (p->fits) {
        printf("limit:    computing; the model fits, nothing is read while generating\n");
        return;
    }
    printf("limit:    %s; a token takes %.0f ms of reading (%s at %s), %.0f ms of computing, "
           "%.0f ms of unpacking\n",
        s.limit, s.read_s * 1e3, FB_SIZE((uint64_t)s.read_bytes), FB_RATE(s.disk_bytes_per_s),
        s.compute_s * 1e3, s.unpack_s * 1e3);
    forebay_plan_speed(plan, MORE, 1, &more);
    forebay_plan_speed(plan, 0, 2, &faster);
    printf("upgrades: 1 GiB more memory: %.2f tokens/s; a disk twice as fast: %.2f tokens/s\n",
        more.decode_tok_per_s, faster.decode_tok_per_s);
    double token_s = s.read_s + s.compute_s + s.unpack_s;
    if (s.measured && !p->sidecar_bytes && s.unpack_s > REPACKING * token_s) {
        printf("          run forebay optimize once to avoid repacking\n");
    }
}

/* --- JSON ---------------------------------------------------------------------------------- */

static json_t *speed_json(const struct forebay_plan *plan, uint64_t more, double factor)
{
    struct forebay_speed s;
    forebay_plan_speed(plan, more, factor, &s);
    return json_pack(
        "{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:b}",
        "decode_tok_per_s", s.decode_tok_per_s, "decode_low_tok_per_s", s.decode_low,
        "decode_high_tok_per_s", s.decode_high, "prompt_tok_per_s", s.prompt_tok_per_s,
        "prompt_low_tok_per_s", s.prompt_low, "prompt_high_tok_per_s", s.prompt_high,
        "time_to_first_token_s", s.time_to_first_token_s, "load_s", s.load_s, "hit_rate",
        s.hit_rate, "token_read_bytes", s.read_bytes, "token_read_s", s.read_s, "token_compute_s",
        s.compute_s, "token_unpack_s", s.unpack_s, "disk_bytes_per_s", s.disk_bytes_per_s, "limit",
        s.limit ? s.limit : "", "seen_before", s.seen);
}

static json_t *layers_json(const struct forebay_plan *plan)
{
    int n;
    const struct forebay_plan_layer *l = forebay_plan_layers(plan, &n);
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_array_append_new(
            list, json_pack("{s:i, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:i, s:i, s:f}", "layer",
                      l[i].layer, "device_bytes", (json_int_t)l[i].device_bytes,
                      "device_slot_bytes", (json_int_t)l[i].device_slot_bytes, "device_slots",
                      l[i].n_device_slots, "resident_bytes", (json_int_t)l[i].resident_bytes,
                      "streamed_bytes", (json_int_t)l[i].streamed_bytes, "slot_bytes",
                      (json_int_t)l[i].slot_bytes, "expert_bytes", (json_int_t)l[i].expert_bytes,
                      "slots", l[i].n_slots, "experts", l[i].n_experts, "hit_rate", l[i].hit_rate));
    }
    return list;
}

static json_t *tiers_json(const struct forebay_plan *plan)
{
    struct forebay_tier tiers[FOREBAY_DEVICES + 2];
    int n = forebay_plan_tiers(plan, tiers);
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        const struct forebay_tier *t = &tiers[i];
        json_array_append_new(list,
            json_pack("{s:s, s:I, s:I, s:I, s:i, s:f}", "tier", t->name, "dense_bytes",
                (json_int_t)t->dense_bytes, "expert_bytes", (json_int_t)t->expert_bytes, "kv_bytes",
                (json_int_t)t->kv_bytes, "slots", t->n_slots, "requests", t->requests));
    }
    return list;
}

static json_t *devices_json(const struct forebay_placement *p)
{
    json_t *list = json_array();
    for (int d = 0; d < p->n_devices; d++) {
        const struct forebay_device_use *use = &p->devices[d];
        json_array_append_new(
            list, json_pack("{s:s, s:i, s:i, s:i, s:I, s:I}", "name", use->name, "layers",
                      use->n_layers, "whole", use->n_whole, "slotted", use->n_slotted, "bytes",
                      (json_int_t)use->bytes, "room_bytes", (json_int_t)use->room_bytes));
    }
    return list;
}

static void print_json(const struct forebay_plan *plan, const struct forebay_placement *p)
{
    json_t *root = json_pack(
        "{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, "
        "s:o, s:o, "
        "s:o, s:o, s:o, s:o}",
        "fits", p->fits, "budget_bytes", (json_int_t)p->budget_bytes, "weights_bytes",
        (json_int_t)p->weights_bytes, "resident_bytes", (json_int_t)p->resident_bytes,
        "fixed_bytes", (json_int_t)p->fixed_bytes, "cache_bytes", (json_int_t)p->cache_bytes,
        "lent_bytes", (json_int_t)p->lent_bytes, "batch", (int)p->batch, "ring_bytes",
        (json_int_t)p->ring_bytes, "streamed_bytes", (json_int_t)p->streamed_bytes, "sidecar_bytes",
        (json_int_t)p->sidecar_bytes, "kv_bytes", (json_int_t)p->kv_bytes, "compute_bytes",
        (json_int_t)p->compute_bytes, "context_bytes", (json_int_t)p->context_bytes,
        "minimum_bytes", (json_int_t)p->minimum_bytes, "slots", p->n_slots, "experts", p->n_experts,
        "layers", layers_json(plan), "tiers", tiers_json(plan), "devices", devices_json(p),
        "estimate", speed_json(plan, 0, 1), "with_1_gib_more", speed_json(plan, MORE, 1),
        "with_disk_twice_as_fast", speed_json(plan, 0, 2));
    json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
}

/* --- The command --------------------------------------------------------------------------- */

int cmd_plan(int argc, char **argv)
{
    struct forebay_model_options o;
    bool json = false, quiet = false;
    forebay_model_options_init(&o);
    struct cmd_option options[] = {
        {CMD_SIZE, 0, "mem", "SIZE", "memory limit of the whole process; default: as for run",
            .target = &o.mem_bytes, .min = 1, .max = 0x1p62},
        {CMD_SIZE, 0, "weights-mem", "SIZE", "memory limit of the weights alone (for experiments)",
            .target = &o.weights_mem_bytes, .min = 1, .max = 0x1p62},
        {CMD_UINT32, 'c', "ctx", "N",
            "tokens of context; default: as trained, if an eighth of the memory is enough",
            .target = &o.ctx, .min = 1, .max = 1 << 24},
        {CMD_UINT32, 'b', "batch", "N", "prompt tokens per pass (default: 512 to 2048)",
            .target = &o.batch, .min = 1, .max = 1 << 20},
        {CMD_INT, 't', "threads", "N", "number of threads; default: one per physical core",
            .target = &o.threads, .min = 1, .max = 512},
        {CMD_NO_FLAG, 0, "no-repack", NULL,
            "compute with weights as stored, not in the CPU's layout", .target = &o.repack},
        {CMD_STRING, 0, "sidecar", "FILE",
            "read weights from a sidecar made by forebay optimize: auto (the default), none, or a "
            "file",
            .target = &o.sidecar},
        CMD_DEVICE_OPTIONS(&o),
        {CMD_RATE, 0, "disk", "RATE", "speed of the disk: " CMD_RATE_HELP "; default: measured",
            .target = &o.disk_bytes_per_s},
        {CMD_FLAG, 0, "json", NULL, "print the plan as JSON", .target = &json},
        {CMD_FLAG, 'q', "quiet", NULL, "print no progress", .target = &quiet}, {0}};
    const struct cmd_spec spec = {"plan", "MODEL [options]",
        "Shows the placement of a model's weights and estimates its speed, without loading it. "
        "Exit code 3: the budget is too small; the message states how much is needed.",
        options, 1, 1, NULL};
    const char *model;
    int rc = cmd_parse(&spec, argc, argv, &model, NULL);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    struct progress_line line;
    struct forebay_error err = {0};
    struct forebay_plan *plan;
    progress_init(&line, quiet);
    o.progress = progress_report;
    o.progress_user = &line;
    enum forebay_status status = forebay_plan_new(model, &o, &plan, &err);
    progress_end(&line);
    if (status != FOREBAY_OK) {
        return cmd_fail(&err);
    }
    struct forebay_placement placement;
    forebay_plan_placement(plan, &placement);
    if (json) {
        print_json(plan, &placement);
    } else {
        print_memory(plan, &placement);
        print_tiers(plan, &placement);
        print_layers(plan);
        print_speed(plan, &placement);
    }
    forebay_plan_free(plan);
    return CMD_OK;
}
