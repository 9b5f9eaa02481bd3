#include "cmd/figures.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/files.h"

/* --- JSON ---------------------------------------------------------------------------------- */

static void set_double(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, json_real(value));
}

static void set_uint64_t(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_forebay_name(json_t *object, const char *key, const char *value)
{
    json_object_set_new(object, key, json_string(value));
}

enum forebay_status figures_write(
    const char *path, const struct forebay_stats *stats, struct forebay_error *err)
{
    json_t *object = json_object();
#define SET(type, name) set_##type(object, #name, stats->name);
    FOREBAY_STATS_LIST(SET)
#undef SET
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(object);
    const struct named_file file = {"--stats", path, true};
    enum forebay_status status = files_write(&file, text, strlen(text), err);
    free(text);
    return status;
}

/* --- Text ---------------------------------------------------------------------------------- */

static void print_reads(const struct forebay_stats *s)
{
    /* The last token sampled is not evaluated. */
    double per_token = s->generated_tokens > 1
                           ? (double)s->decode_read_bytes / (double)(s->generated_tokens - 1)
                           : 0;
    fprintf(stderr, "reads:  %s in total, %s per generated token", FB_SIZE(s->read_bytes),
        FB_SIZE((uint64_t)per_token));
    if (s->disk_bytes_per_s > 0) {
        fprintf(stderr, "; disk %s, %.0f %% utilised", FB_RATE(s->disk_bytes_per_s),
            s->disk_utilisation * 100);
    }
    fprintf(stderr, "\n");
    if (s->expert_requests) {
        fprintf(stderr, "cache:  %.1f %% of %llu expert requests were hits", s->hit_rate * 100,
            (unsigned long long)s->expert_requests);
        fprintf(stderr, "\n");
    }
}

/* Names the part that most of the time went to, and what would make it shorter. */
static void print_limit(const struct forebay_stats *s)
{
    double total = s->compute_s + s->stall_s + s->unpack_s + s->scheduler_s;
    double rest = s->compute_s + s->scheduler_s;
    const char *what = "computing", *remedy = "more memory and a faster disk would not help much";
    double part = rest;
    if (s->stall_s >= rest && s->stall_s >= s->unpack_s) {
        what = "waiting for the disk";
        remedy = "more memory (--mem) or a faster disk would help";
        part = s->stall_s;
    } else if (s->unpack_s >= rest) {
        what = "unpacking weights";
        remedy = "forebay optimize, run once, would help";
        part = s->unpack_s;
    }
    if (total > 0) {
        fprintf(stderr, "limit:  %s, %.0f %% of the time; %s\n", what, part / total * 100, remedy);
    }
}

static void print_device(const struct forebay_device_use *use, const struct forebay_placement *p)
{
    fprintf(stderr, "device: %s holds %d of %d layers", use->name, use->n_layers, p->n_layers);
    const char *where = use->slots_shared ? " in RAM" : "";
    if (use->n_slotted > 0 && use->n_whole > 0) {
        fprintf(stderr, " (%d with their experts) and computes the experts of %d from %d slots%s",
            use->n_whole, use->n_slotted, use->n_slots, where);
    } else if (use->n_slotted > 0) {
        fprintf(stderr, " and computes their experts, from %d slots%s", use->n_slots, where);
    } else if (use->n_whole < use->n_layers) {
        fprintf(stderr, " (%d with their %s)", use->n_whole, p->n_experts ? "experts" : "FFNs");
    }
    fprintf(stderr, ", %s\n", FB_SIZE(use->bytes));
}

void figures_print_context(FILE *out, const struct forebay_placement *p)
{
    if (!p->ctx_by_memory) {
        return;
    }
    if (p->ctx_trained > p->ctx) {
        fprintf(out,
            "context: %u tokens, by memory: an eighth of it at most (the model allows %u); --ctx "
            "sets "
            "it\n",
            p->ctx, p->ctx_trained);
    } else {
        fprintf(out, "context: %u tokens, as trained; --ctx sets it\n", p->ctx);
    }
}

void figures_print(const struct forebay_stats *s, const struct forebay_placement *placement)
{
    fprintf(stderr,
        "speed:  %.2f tokens/s (%llu generated), prompt %.1f tokens/s (%llu), first token after "
        "%.2f s, loaded in %.1f s\n",
        s->decode_tok_per_s, (unsigned long long)s->generated_tokens, s->prompt_tok_per_s,
        (unsigned long long)s->prompt_tokens, s->time_to_first_token_s, s->load_s);
    if (s->estimated_tok_per_s > 0) {
        fprintf(stderr, "plan:   %.2f tokens/s estimated\n", s->estimated_tok_per_s);
    }
    for (int d = 0; d < placement->n_devices; d++) {
        if (placement->devices[d].bytes) {
            print_device(&placement->devices[d], placement);
        }
    }
    figures_print_context(stderr, placement);
    if (placement->fits) {
        fprintf(stderr, "memory: peak %s of a budget of %s; the model fits\n",
            FB_SIZE(s->peak_rss_bytes), FB_SIZE(s->budget_bytes));
        return;
    }
    fprintf(stderr, "memory: peak %s of a budget of %s; %s of %s of weights in memory",
        FB_SIZE(s->peak_rss_bytes), FB_SIZE(s->budget_bytes),
        FB_SIZE(placement->resident_bytes + placement->cache_bytes),
        FB_SIZE(placement->weights_bytes));
    if (placement->n_experts) {
        fprintf(stderr, ", %d slots for %d experts", placement->n_slots, placement->n_experts);
    }
    fprintf(stderr, "\n");
    if (placement->sidecar_bytes) {
        fprintf(
            stderr, "sidecar: %s of weights are read from it\n", FB_SIZE(placement->sidecar_bytes));
    }
    print_reads(s);
    fprintf(stderr,
        "time:   compute %.2f s, stalled on reads %.2f s, unpacking %.2f s, scheduling %.2f s; "
        "written %s\n",
        s->compute_s, s->stall_s, s->unpack_s, s->scheduler_s, FB_SIZE(s->written_bytes));
    print_limit(s);
}
