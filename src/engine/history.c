/*
 * history.c - see history.h. The file, one per model and set of groups:
 *
 *      models/ID.json   { format, tokens, lookahead,
 *                         times: [{threads, repack, compute_s, prompt_s}, ...],
 *                         stack_distances: [[uses at distance 0, 1, ... n_expert - 1, first uses],
 *                                           ...] }                           one list per group
 *
 * The stack distance of a use is the number of other experts of the group used since the expert's
 * last use: an LRU cache of more slots than that has it. So one histogram gives the hits of every
 * size.
 */
#include "engine/history.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/dirs.h"
#include "os/save.h"

#define FORMAT 4
/* A run with fewer generated tokens says little. */
#define TOKENS_MIN 8
/* Shorter prompts are computed differently from long ones. */
#define PROMPT_MIN 128
/* Beyond this many counted tokens old ones fade, because routing changes with the topics. */
#define TOKENS_FADE 4000
#define TIMES_MAX   16
/* Published figures for asking the next layer's router are 50 to 89 %. */
#define LOOKAHEAD_USUAL 0.7

struct compute_times {
    int threads;
    bool repack;
    double compute_s; /* of one token */
    double prompt_s;  /* of one token of a long prompt; 0: not known */
};

struct fb_history {
    char path[1024]; /* "": no cache directory */
    int n_groups;
    struct fb_reuse *seen; /* [n_groups] stack distances */
    int **recent;          /* [n_groups][n_expert] experts used, the latest first */
    int *n_recent;         /* [n_groups] */
    double tokens;         /* counted in `seen` */
    bool counting;
    double lookahead; /* see fb_history_lookahead */
    int n_times;
    struct compute_times times[TIMES_MAX];
};

/* --- Which model --------------------------------------------------------------------------- */

static uint64_t mix(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *at = data;
    for (size_t i = 0; i < n; i++) { /* FNV-1a */
        hash = (hash ^ at[i]) * 0x100000001b3u;
    }
    return hash;
}

/* Hash of the model and of the layers whose experts we claim, which depend on the device. */
static uint64_t model_id(const struct fb_weights *ws)
{
    const struct fb_catalog *c = ws->catalog;
    uint64_t hash = 0xcbf29ce484222325u;
    hash = mix(hash, c->arch, strlen(c->arch));
    hash = mix(hash, c->name, strlen(c->name));
    for (int i = 0; i < c->n_tensors; i++) {
        hash = mix(hash, c->tensors[i].name, strlen(c->tensors[i].name));
        hash = mix(hash, &c->tensors[i].bytes, sizeof c->tensors[i].bytes);
        hash = mix(hash, &c->tensors[i].type, sizeof c->tensors[i].type);
    }
    for (int g = 0; g < ws->n_groups; g++) {
        hash = mix(hash, &ws->groups[g].layer, sizeof ws->groups[g].layer);
    }
    return hash;
}

/* --- Reading ------------------------------------------------------------------------------- */

static bool read_counts(const json_t *list, struct fb_reuse *out)
{
    if (json_array_size(list) != (size_t)out->n_expert + 1) {
        return false;
    }
    for (int d = 0; d <= out->n_expert; d++) {
        const json_t *value = json_array_get(list, (size_t)d);
        double x = json_is_number(value) ? json_number_value(value) : NAN;
        if (!(x >= 0 && x < 1e15)) {
            return false;
        }
        out->count[d] = x;
    }
    return true;
}

static bool read_times(const json_t *list, struct fb_history *h)
{
    const json_t *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        double s = json_number_value(json_object_get(item, "compute_s"));
        double prompt_s = json_number_value(json_object_get(item, "prompt_s"));
        if (!(s > 0 && s < 1e6 && prompt_s >= 0 && prompt_s < 1e6) || h->n_times == TIMES_MAX) {
            return false;
        }
        h->times[h->n_times++] =
            (struct compute_times){(int)json_integer_value(json_object_get(item, "threads")),
                json_is_true(json_object_get(item, "repack")), s, prompt_s};
    }
    return true;
}

static bool read_file(const json_t *root, struct fb_history *h)
{
    const json_t *groups = json_object_get(root, "stack_distances");
    if (json_integer_value(json_object_get(root, "format")) != FORMAT ||
        json_array_size(groups) != (size_t)h->n_groups) {
        return false;
    }
    for (int g = 0; g < h->n_groups; g++) {
        if (!read_counts(json_array_get(groups, (size_t)g), &h->seen[g])) {
            return false;
        }
    }
    const json_t *tokens = json_object_get(root, "tokens"), *times = json_object_get(root, "times");
    const json_t *lookahead = json_object_get(root, "lookahead");
    h->lookahead = json_is_number(lookahead) ? json_number_value(lookahead) : NAN;
    if (!(h->lookahead >= 0 && h->lookahead <= 1)) {
        return false;
    }
    h->tokens = json_number_value(tokens);
    return json_is_number(tokens) && h->tokens >= 0 && json_is_array(times) && read_times(times, h);
}

static void forget(struct fb_history *h)
{
    for (int g = 0; g < h->n_groups; g++) {
        memset(h->seen[g].count, 0, ((size_t)h->seen[g].n_expert + 1) * sizeof(double));
    }
    h->tokens = 0;
    h->lookahead = LOOKAHEAD_USUAL;
    h->n_times = 0;
}

struct fb_history *fb_history_open(const struct fb_weights *ws)
{
    struct fb_history *h = fb_xcalloc(1, sizeof *h);
    size_t n = (size_t)ws->n_groups + 1;
    h->n_groups = ws->n_groups;
    h->lookahead = LOOKAHEAD_USUAL;
    h->seen = fb_xcalloc(n, sizeof *h->seen);
    h->recent = fb_xcalloc(n, sizeof *h->recent);
    h->n_recent = fb_xcalloc(n, sizeof *h->n_recent);
    for (int g = 0; g < ws->n_groups; g++) {
        size_t experts = (size_t)ws->groups[g].n_expert;
        h->seen[g].n_expert = ws->groups[g].n_expert;
        h->seen[g].count = fb_xcalloc(experts + 1, sizeof *h->seen[g].count);
        h->recent[g] = fb_xcalloc(experts, sizeof *h->recent[g]);
    }
    char name[64];
    snprintf(name, sizeof name, "models/%016llx.json", (unsigned long long)model_id(ws));
    if (!fb_cache_path(name, h->path, sizeof h->path)) {
        h->path[0] = 0;
        return h;
    }
    json_error_t error = {.line = -1};
    FILE *file = fb_file_open_text(h->path);
    json_t *root = file ? json_loadf(file, 0, &error) : NULL;
    if (file) {
        fclose(file);
    }
    if ((root || error.line > 0) && !read_file(root, h)) {
        fb_warn("%s is damaged: the history of this model starts anew", h->path);
        forget(h);
    }
    json_decref(root);
    return h;
}

void fb_history_free(struct fb_history *h)
{
    for (int g = 0; h && g < h->n_groups; g++) {
        free(h->seen[g].count);
        free(h->recent[g]);
    }
    if (h) {
        free(h->seen);
        free(h->recent);
        free(h->n_recent);
        free(h);
    }
}

/* --- Reading figures ----------------------------------------------------------------------- */

const struct fb_reuse *fb_history_reuse(const struct fb_history *h)
{
    return h->tokens > 0 ? h->seen : NULL;
}

static struct compute_times *find_times(const struct fb_history *h, int threads, bool repack)
{
    for (int i = 0; i < h->n_times; i++) {
        if (h->times[i].threads == threads && h->times[i].repack == repack) {
            return (struct compute_times *)&h->times[i];
        }
    }
    return NULL;
}

double fb_history_compute_s(const struct fb_history *h, int threads, bool repack)
{
    const struct compute_times *t = find_times(h, threads, repack);
    return t ? t->compute_s : 0;
}

double fb_history_prompt_s(const struct fb_history *h, int threads, bool repack)
{
    const struct compute_times *t = find_times(h, threads, repack);
    return t ? t->prompt_s : 0;
}

double fb_history_lookahead(const struct fb_history *h)
{
    return h->lookahead;
}

/* --- Counting ------------------------------------------------------------------------------ */

/* Moves the expert to the front of the recent ones. Returns its stack distance, n_expert if
 * cold. */
static int touch(struct fb_history *h, int group, int expert)
{
    int *list = h->recent[group], *n = &h->n_recent[group], at = 0;
    while (at < *n && list[at] != expert) {
        at++;
    }
    bool found = at < *n;
    if (!found) {
        (*n)++;
    }
    memmove(list + 1, list, (size_t)at * sizeof *list);
    list[0] = expert;
    return found ? at : h->seen[group].n_expert;
}

void fb_history_note(void *user, int group, const int *experts, int n)
{
    struct fb_history *h = user;
    for (int i = 0; i < n; i++) {
        int distance = touch(h, group, experts[i]);
        if (h->counting) {
            h->seen[group].count[distance]++;
        }
    }
}

void fb_history_note_lookahead(
    struct fb_history *h, uint64_t lookahead_bytes, uint64_t expert_bytes)
{
    if (lookahead_bytes > 0) { /* else lookahead may have been off */
        h->lookahead += 0.75 * ((double)lookahead_bytes / (double)expert_bytes - h->lookahead);
    }
}

void fb_history_count(struct fb_history *h, bool generating)
{
    h->counting = generating;
    h->tokens += generating;
}

/* --- Writing ------------------------------------------------------------------------------- */

static void fade(struct fb_history *h)
{
    double keep = TOKENS_FADE / h->tokens;
    for (int g = 0; keep < 1 && g < h->n_groups; g++) {
        for (int d = 0; d <= h->seen[g].n_expert; d++) {
            h->seen[g].count[d] *= keep;
        }
    }
    h->tokens = fmin(h->tokens, TOKENS_FADE);
}

/* Moves `known` towards a faster run quickly and towards a slower one slowly: a busy machine will
 * be idle again, and ggml's spinning threads make it look up to a hundred times slower. */
static void follow(double *known, double seen)
{
    double weight = seen < *known ? 0.75 : 0.2;
    *known = *known > 0 ? *known + weight * (fmin(seen, 2 * *known) - *known) : seen;
}

static struct compute_times *times_of(struct fb_history *h, int threads, bool repack)
{
    struct compute_times *t = find_times(h, threads, repack);
    if (t) {
        return t;
    }
    if (h->n_times == TIMES_MAX) {
        memmove(h->times, h->times + 1, sizeof h->times - sizeof h->times[0]);
        h->n_times--;
    }
    h->times[h->n_times] = (struct compute_times){.threads = threads, .repack = repack};
    return &h->times[h->n_times++];
}

static json_t *to_json(const struct fb_history *h)
{
    json_t *groups = json_array(), *times = json_array();
    for (int g = 0; g < h->n_groups; g++) {
        json_t *counts = json_array();
        for (int d = 0; d <= h->seen[g].n_expert; d++) {
            json_array_append_new(counts, json_real(h->seen[g].count[d]));
        }
        json_array_append_new(groups, counts);
    }
    for (int i = 0; i < h->n_times; i++) {
        json_array_append_new(
            times, json_pack("{s:i, s:b, s:f, s:f}", "threads", h->times[i].threads, "repack",
                       h->times[i].repack, "compute_s", h->times[i].compute_s, "prompt_s",
                       h->times[i].prompt_s));
    }
    return json_pack("{s:i, s:f, s:f, s:o, s:o}", "format", FORMAT, "tokens", h->tokens,
        "lookahead", h->lookahead, "times", times, "stack_distances", groups);
}

void fb_history_save(struct fb_history *h, int threads, bool repack, struct fb_computed alone,
    struct fb_computed prompt)
{
    if (!h->path[0] || alone.tokens < TOKENS_MIN) {
        return;
    }
    if (alone.seconds > 0) {
        struct compute_times *t = times_of(h, threads, repack);
        follow(&t->compute_s, alone.seconds / (double)alone.tokens);
        if (prompt.tokens >= PROMPT_MIN) {
            follow(&t->prompt_s, prompt.seconds / (double)prompt.tokens);
        }
    }
    fade(h);
    json_t *root = to_json(h);
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(5));
    if (!text || !fb_private_replace(h->path, text, strlen(text))) {
        fb_debug("cannot write %s", h->path);
    }
    free(text);
    json_decref(root);
}
