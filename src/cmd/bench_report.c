/*
 * bench_report.c - from the results of the runs to figures, and to a table or JSON.
 *
 *      bench_run --bench_figures_of--> bench_figures --spread_at--> median, min, max over rounds
 *
 * A figure is named by its offset in struct bench_figures, so that one function computes the spread
 * of any of them, and of the ratio between the two programs (round by round).
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/bench_report.h"
#include "cmd/cmd.h"
#include "cmd/utf8.h"

static const char *const program_names[] = {"forebay", "llama.cpp"};

/* --- Figures ------------------------------------------------------------------------------- */

/* a / b; 0 also for the small negative numbers that rounding of differences can give. */
static double over(double a, double b)
{
    return a > 0 && b > 0 ? a / b : 0;
}

/* As docs/STATS.md defines them, for the measured tokens only. */
struct bench_figures bench_figures_of(const struct bench_run *run, uint64_t bytes_per_token)
{
    const struct forebay_stats *p = &run->prompt, *a = &run->start, *z = &run->end;
    double n = run->n_measured, seconds = z->decode_s - a->decode_s;
    double read = (double)(z->decode_read_bytes - a->decode_read_bytes);
    struct bench_figures f = {
        .load_s = z->load_s,
        .first_token_s = z->load_s + z->time_to_first_token_s,
        .prompt_tok_per_s = p->prompt_tok_per_s,
        .decode_tok_per_s = over(n, seconds),
        .peak_rss_bytes = (double)z->peak_rss_bytes,
        .hit_rate = over((double)(z->expert_hits - a->expert_hits),
            (double)(z->expert_requests - a->expert_requests)),
        .disk_utilisation = over(read, seconds * z->disk_bytes_per_s),
        .disk_bytes_per_s = z->disk_bytes_per_s,
        .estimated_tok_per_s = z->estimated_tok_per_s,
        .written_bytes = (double)z->written_bytes,
        .other_cores = z->other_cores,
        .token_read_bytes = over(read, n),
        .token_prefetch_bytes = over((double)(z->prefetch_bytes - a->prefetch_bytes), n),
        .token_prefetch_used_bytes =
            over((double)(z->prefetch_used_bytes - a->prefetch_used_bytes), n),
        .token_s = over(seconds, n),
        .token_demand_stall_s = over(z->demand_stall_s - a->demand_stall_s, n),
        .token_prefetch_stall_s = over(z->prefetch_stall_s - a->prefetch_stall_s, n),
        .token_unpack_s = over(z->unpack_s - a->unpack_s, n),
        .token_scheduler_s = over(z->scheduler_s - a->scheduler_s, n),
        .token_compute_s = over(z->compute_s - a->compute_s, n),
        .prompt_read_bytes = (double)p->read_bytes,
        .prompt_stall_s = p->stall_s,
        .prompt_unpack_s = p->unpack_s,
        .prompt_scheduler_s = p->scheduler_s,
        .prompt_compute_s = p->compute_s,
    };
    f.roofline_ratio = f.decode_tok_per_s * over((double)bytes_per_token, z->disk_bytes_per_s);
    return f;
}

/* --- Spread over rounds -------------------------------------------------------------------- */

struct spread {
    double median, min, max;
};

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct spread spread_of(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_size);
    double middle = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return (struct spread){middle, values[0], values[n - 1]};
}

struct summary {
    const struct bench_options *options;
    struct bench_figures *figures[BENCH_PROGRAMS]; /* [round]; NULL: did not run */
    double *values;                                /* [rounds] */
};

static void summary_init(
    struct summary *s, const struct bench_options *o, const struct bench_result *r)
{
    *s = (struct summary){.options = o, .values = fb_xcalloc(o->rounds, sizeof *s->values)};
    for (int p = 0; p < BENCH_PROGRAMS; p++) {
        if (r->runs[p]) {
            s->figures[p] = fb_xcalloc(o->rounds, sizeof *s->figures[p]);
            for (uint32_t i = 0; i < o->rounds; i++) {
                s->figures[p][i] = bench_figures_of(&r->runs[p][i], r->file.bytes_per_token);
            }
        }
    }
}

static void summary_release(struct summary *s)
{
    free(s->figures[BENCH_FOREBAY]);
    free(s->figures[BENCH_LLAMA]);
    free(s->values);
}

/* The figure at `offset` in struct bench_figures. */
static double figure_at(const struct bench_figures *f, size_t offset)
{
    double value;
    memcpy(&value, (const char *)f + offset, sizeof value);
    return value;
}

static struct spread spread_at(struct summary *s, enum bench_program program, size_t offset)
{
    for (uint32_t i = 0; i < s->options->rounds; i++) {
        s->values[i] = figure_at(&s->figures[program][i], offset);
    }
    return spread_of(s->values, s->options->rounds);
}

/* Forebay's figure / llama.cpp's, round by round. */
static struct spread ratio_at(struct summary *s, size_t offset)
{
    for (uint32_t i = 0; i < s->options->rounds; i++) {
        s->values[i] = over(figure_at(&s->figures[BENCH_FOREBAY][i], offset),
            figure_at(&s->figures[BENCH_LLAMA][i], offset));
    }
    return spread_of(s->values, s->options->rounds);
}

#define SPREAD(s, program, name) spread_at(s, program, offsetof(struct bench_figures, name))

/* Number of generated tokens, from the first on, that are equal in both programs. *of: number of
 * tokens compared. */
static uint32_t same_tokens(const struct bench_result *r, uint32_t round, uint32_t *of)
{
    const struct bench_run *a = &r->runs[BENCH_FOREBAY][round], *b = &r->runs[BENCH_LLAMA][round];
    *of = a->n_ids < b->n_ids ? a->n_ids : b->n_ids;
    uint32_t n = 0;
    while (n < *of && a->ids[n] == b->ids[n]) {
        n++;
    }
    return n;
}

/* --- Table --------------------------------------------------------------------------------- */

static const char *cell(struct spread x, char *buf, size_t cap)
{
    int digits = x.median < 1 ? 3 : x.median < 100 ? 2 : x.median < 1000 ? 1 : 0;
    snprintf(buf, cap, "%.*f (%.*f to %.*f)", digits, x.median, digits, x.min, digits, x.max);
    return buf;
}

static struct spread in_units(struct spread x, double unit)
{
    return (struct spread){x.median / unit, x.min / unit, x.max / unit};
}

static void print_row(struct summary *s, const char *what, size_t offset, double unit)
{
    char text[64];
    struct spread own = in_units(spread_at(s, BENCH_FOREBAY, offset), unit);
    printf("%-20s", what);
    if (!s->figures[BENCH_LLAMA]) {
        printf("  %s\n", cell(own, text, sizeof text));
        return;
    }
    struct spread other = in_units(spread_at(s, BENCH_LLAMA, offset), unit);
    printf("  %-26s", cell(own, text, sizeof text));
    printf("  %-26s", cell(other, text, sizeof text));
    printf("  %s\n", cell(ratio_at(s, offset), text, sizeof text));
}

static void print_share(struct summary *s, const char *what, size_t offset)
{
    double token = SPREAD(s, BENCH_FOREBAY, token_s).median;
    double part = spread_at(s, BENCH_FOREBAY, offset).median;
    printf("    %-32s %8.2f ms  %5.1f %%\n", what, part * 1e3, over(part, token) * 100);
}

#define SHARE(s, what, name) print_share(s, what, offsetof(struct bench_figures, name))

static void print_decode(struct summary *s, bool experts)
{
    struct spread u = SPREAD(s, BENCH_FOREBAY, disk_utilisation);
    struct spread hits = SPREAD(s, BENCH_FOREBAY, hit_rate);
    double read = SPREAD(s, BENCH_FOREBAY, token_read_bytes).median;
    double prefetched = SPREAD(s, BENCH_FOREBAY, token_prefetch_bytes).median;
    double used = SPREAD(s, BENCH_FOREBAY, token_prefetch_used_bytes).median;
    double disk = SPREAD(s, BENCH_FOREBAY, disk_bytes_per_s).median;
    printf("\ngenerating with Forebay (medians):\n");
    if (experts) {
        printf("    expert requests that hit         %.1f %% (%.1f to %.1f)\n", hits.median * 100,
            hits.min * 100, hits.max * 100);
    }
    printf(
        "    read                             %s per token; %s prefetched, %.0f %% of that used\n",
        FB_SIZE((uint64_t)read), FB_SIZE((uint64_t)prefetched), over(used, prefetched) * 100);
    if (disk > 0) {
        printf("    disk utilisation (U)             %.0f %% (%.0f to %.0f) of %s, measured before "
               "loading\n",
            u.median * 100, u.min * 100, u.max * 100, FB_RATE(disk));
        printf(
            "    roofline ratio (R)               %.2f times the speed of reading every weight\n",
            SPREAD(s, BENCH_FOREBAY, roofline_ratio).median);
    }
    printf("    estimated speed                  %.2f tokens/s\n",
        SPREAD(s, BENCH_FOREBAY, estimated_tok_per_s).median);
    printf("time per token:\n");
    SHARE(s, "compute", token_compute_s);
    SHARE(s, "stalled on demand reads", token_demand_stall_s);
    SHARE(s, "stalled on prefetch reads", token_prefetch_stall_s);
    SHARE(s, "unpacking", token_unpack_s);
    SHARE(s, "scheduling", token_scheduler_s);
}

static void print_versus(const struct bench_options *o, const struct bench_result *r)
{
    uint32_t of, same = same_tokens(r, 0, &of);
    bool repacked = o->generate.model.repack && o->llama_repacks;
    printf(
        "llama.cpp maps the file, %s; its page cache is limited by the machine or container, not "
        "by --mem\n",
        repacked ? "weights repacked" : "weights as stored");
    printf("tokens generated: %s%s (%u of %u equal)\n", same == of ? "identical" : "different",
        same == of || repacked == o->generate.model.repack ? "" : ", as are the layouts", same, of);
}

void bench_print_table(const struct bench_options *o, const struct bench_result *r)
{
    struct summary s;
    summary_init(&s, o, r);
    const struct bench_run *first = &r->runs[BENCH_FOREBAY][0];
    const struct forebay_placement *p = &first->placement;
    printf("%s: %s, %d layers, ", o->generate.model_path, r->file.arch, r->file.n_layer);
    if (r->file.n_expert) {
        printf("%d experts, %d used, ", r->file.n_expert, r->file.n_expert_used);
    }
    printf("%s\n", FB_SIZE(r->file.file_bytes));
    if (p->fits) {
        printf("budget %s: the model fits\n", FB_SIZE(p->budget_bytes));
    } else {
        printf("budget %s: %s of %s of weights in memory\n", FB_SIZE(p->budget_bytes),
            FB_SIZE(p->resident_bytes + p->cache_bytes), FB_SIZE(p->weights_bytes));
    }
    printf(
        "%u round%s: a prompt of %llu tokens, %u tokens to warm up, %u tokens measured; each run "
        "is a separate\nprocess and starts with none of the model in the page cache; median "
        "(range)\n\n",
        o->rounds, o->rounds == 1 ? "" : "s", (unsigned long long)first->prompt.prompt_tokens,
        o->warmup, first->n_measured);
    if (s.figures[BENCH_LLAMA]) {
        printf("%-20s  %-26s  %-26s  %s\n", "", "Forebay", "llama.cpp", "Forebay / llama.cpp");
    }
    print_row(&s, "loading, s", offsetof(struct bench_figures, load_s), 1);
    print_row(&s, "first token, s", offsetof(struct bench_figures, first_token_s), 1);
    print_row(&s, "prompt, tokens/s", offsetof(struct bench_figures, prompt_tok_per_s), 1);
    print_row(&s, "decode, tokens/s", offsetof(struct bench_figures, decode_tok_per_s), 1);
    print_row(&s, "peak memory, MiB", offsetof(struct bench_figures, peak_rss_bytes), 0x1p20);
    struct spread others = SPREAD(&s, BENCH_FOREBAY, other_cores);
    printf("other programs used   %.2f (%.2f to %.2f) processors%s\n", others.median, others.min,
        others.max,
        others.max > CMD_BUSY_CORES ? ": the machine is busy, these figures are too low" : "");
    if (s.figures[BENCH_LLAMA]) {
        print_versus(o, r);
    }
    if (!p->fits) {
        print_decode(&s, r->file.n_expert > 0);
    }
    summary_release(&s);
}

/* --- JSON ---------------------------------------------------------------------------------- */

static json_t *spread_json(struct spread x)
{
    return json_pack("{s:f, s:f, s:f}", "median", x.median, "min", x.min, "max", x.max);
}

static json_t *program_json(
    struct summary *s, const struct bench_result *r, enum bench_program program)
{
    json_t *object = json_object(), *runs = json_array();
#define SET(name) json_object_set_new(object, #name, spread_json(SPREAD(s, program, name)));
    BENCH_BOTH(SET)
    if (program == BENCH_FOREBAY) {
        BENCH_OWN(SET)
    }
#undef SET
    for (uint32_t i = 0; i < s->options->rounds; i++) {
        const struct bench_figures *f = &s->figures[program][i];
        json_t *run = json_pack("{s:i}", "tokens", (int)r->runs[program][i].n_measured);
#define SET(name) json_object_set_new(run, #name, json_real(f->name));
        BENCH_BOTH(SET)
        if (program == BENCH_FOREBAY) {
            BENCH_OWN(SET)
        }
#undef SET
        json_array_append_new(runs, run);
    }
    json_object_set_new(object, "runs", runs);
    return object;
}

static json_t *versus_json(struct summary *s, const struct bench_result *r)
{
    uint32_t of, same = same_tokens(r, 0, &of);
    json_t *object = json_object();
#define SET(name)                                                                                  \
    json_object_set_new(                                                                           \
        object, #name, spread_json(ratio_at(s, offsetof(struct bench_figures, name))));
    BENCH_BOTH(SET)
#undef SET
    json_object_set_new(object, "same_tokens", json_integer(same));
    json_object_set_new(object, "compared_tokens", json_integer(of));
    json_object_set_new(object, "llama_repacks",
        json_boolean(s->options->generate.model.repack && s->options->llama_repacks));
    return object;
}

void bench_print_json(const struct bench_options *o, const struct bench_result *r)
{
    struct summary s;
    summary_init(&s, o, r);
    const struct bench_run *first = &r->runs[BENCH_FOREBAY][0];
    const struct forebay_placement *p = &first->placement;
    json_t *root = json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:b}",
        "model", utf8_json(o->generate.model_path), "arch", utf8_json(r->file.arch), "file_bytes",
        (json_int_t)r->file.file_bytes, "bytes_per_token", (json_int_t)r->file.bytes_per_token,
        "budget_bytes", (json_int_t)p->budget_bytes, "resident_bytes",
        (json_int_t)p->resident_bytes, "cache_bytes", (json_int_t)p->cache_bytes, "streamed_bytes",
        (json_int_t)p->streamed_bytes, "weights_bytes", (json_int_t)p->weights_bytes, "rounds",
        (int)o->rounds, "prompt_tokens", (int)first->prompt.prompt_tokens, "warmup_tokens",
        (int)o->warmup, "fits", p->fits);
    for (int i = 0; i < BENCH_PROGRAMS; i++) {
        if (s.figures[i]) {
            json_object_set_new(root, program_names[i], program_json(&s, r, (enum bench_program)i));
        }
    }
    if (s.figures[BENCH_LLAMA]) {
        json_object_set_new(root, "forebay_over_llama.cpp", versus_json(&s, r));
    }
    json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
    summary_release(&s);
}
