/*
 * replay_model.c - turns a routing trace into a model whose greedy decoding repeats it.
 *
 * A qwen3moe model (plain softmax top-k routing) whose words are the T tokens of the trace:
 *
 *   embedding   token t has its own direction d_t; the T directions are orthogonal and each has a
 *               mean square of 1, so RMSNorm (weights 1) leaves them as they are
 *   router      layer l, expert e:  sum over tokens t that used e in l of  score(t, l, e) d_t / n
 *               so the logits of d_t are exactly the scores: SCORE and a little more for the
 *               experts of the trace, by rank, and 0 for all others
 *   experts     random, with a small down matrix: all experts together change the residual by
 *               NOISE_EXPERTS of its length, so every byte matters, but the direction stays
 *   attention   the same, smaller
 *   output      row t+1 is GAIN d_t / n: token t+1 follows t, and token 0 follows the last one;
 *               tokens that are not words have zero rows
 *
 * The directions are the rows of the discrete cosine transform (n = width of the model) with random
 * signs on the columns: dense, so that every weight of an expert is used, and n of them exist.
 */
#include "synth/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/units.h"
#include "model/trace.h"
#include "synth/random_rows.h"
#include "synth/dims.h"
#include "synth/gguf_writer.h"
#include "synth/vocab.h"

#include "ggml.h"
#include "gguf.h"

#define SCORE           4.0f
#define SCORE_STEP      0.25f
#define GAIN            20.0f
#define NOISE_EXPERTS   0.05f
#define NOISE_ATTENTION 0.02f
#define FFN_RMS         0.6f /* of silu(gate) * up, both of unit spread */
#define DEFAULT_EMBD    2048
#define DEFAULT_EXPERT  FB_MIB

void fb_synth_replay_init(struct fb_synth_replay *replay)
{
    memset(replay, 0, sizeof *replay);
}

struct replay_source {
    const struct fb_synth_model *model;
    const struct fb_trace *trace;
    struct fb_random_rows *rows;
    uint64_t seed;
    int embd;
    float *directions; /* [token][embd] */
};

/* --- Directions, and rows built from them -------------------------------------------------  */

static enum forebay_status make_directions(struct replay_source *s, struct forebay_error *err)
{
    size_t n = (size_t)s->embd, n_tokens = (size_t)s->trace->n_tokens;
    s->directions = malloc(n_tokens * n * sizeof *s->directions);
    if (!s->directions) {
        return fb_fail(err, FOREBAY_E_NOMEM, "Use fewer tokens.",
            "no memory for the directions of %zu tokens", n_tokens);
    }
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t i = 0; i < n; i++) {
            double sign = fb_random_mix(s->seed, i, 3) & 1 ? 1.0 : -1.0;
            /* the angle, reduced to one turn while it is still an integer */
            double turns = (double)((2 * i + 1) * t % (4 * n)) / (double)(4 * n);
            double size = t == 0 ? 1.0 : sqrt(2.0);
            s->directions[t * n + i] = (float)(sign * size * cos(6.283185307179586 * turns));
        }
    }
    return FOREBAY_OK;
}

static void add_direction(const struct replay_source *s, int token, float factor, float *row)
{
    const float *d = s->directions + (size_t)token * (size_t)s->embd;
    for (int i = 0; i < s->embd; i++) {
        row[i] += factor * d[i];
    }
}

static void embedding_row(const struct replay_source *s, int64_t token, float *row)
{
    if (token < s->trace->n_tokens) {
        add_direction(s, (int)token, 1.0f, row);
    } else { /* not a word: any finite values */
        fb_random_floats(fb_random_mix(s->seed, (uint64_t)token, 4), 0.0f, 1.0f, s->embd, row);
    }
}

static void output_row(const struct replay_source *s, int64_t token, float *row)
{
    int n = s->trace->n_tokens;
    if (token < n) {
        add_direction(s, (int)(token + n - 1) % n, GAIN / (float)s->embd, row);
    }
}

static void router_row(const struct replay_source *s, int layer, int64_t expert, float *row)
{
    const struct fb_trace *trace = s->trace;
    for (int t = 0; t < trace->n_tokens; t++) {
        const uint16_t *route = fb_trace_route(trace, t, layer);
        for (int k = 0; k < trace->top_k; k++) {
            if (route[k] == expert) {
                float score = SCORE + SCORE_STEP * (float)(trace->top_k - 1 - k);
                add_direction(s, t, score / (float)s->embd, row);
            }
        }
    }
}

static enum forebay_status replay_rows(
    void *user, int tensor, int64_t row, int64_t n, void *out, struct forebay_error *err)
{
    const struct replay_source *s = user;
    const struct fb_synth_tensor *t = &s->model->tensors[tensor];
    (void)err;
    if (t->part != FB_PART_EMBEDDING && t->part != FB_PART_OUTPUT && t->part != FB_PART_ROUTER) {
        fb_random_rows_get(s->rows, t, tensor, row, n, out);
        return FOREBAY_OK;
    }
    float *to = out;
    memset(to, 0, (size_t)(n * s->embd) * sizeof *to);
    for (int64_t i = row; i < row + n; i++, to += s->embd) {
        if (t->part == FB_PART_EMBEDDING) {
            embedding_row(s, i, to);
        } else if (t->part == FB_PART_OUTPUT) {
            output_row(s, i, to);
        } else {
            router_row(s, t->layer, i, to);
        }
    }
    return FOREBAY_OK;
}

/* --- The model ---------------------------------------------------------------------------- */

static int largest(int a, int b)
{
    return a > b ? a : b;
}

/* The number of neurons, a multiple of the type's block, that makes an expert's size nearest to the
 * wanted one. */
static int choose_ff(const struct fb_synth_replay *replay, const struct fb_dims *d)
{
    if (replay->ff) {
        return replay->ff;
    }
    uint64_t wanted = replay->expert_bytes ? replay->expert_bytes : DEFAULT_EXPERT;
    enum ggml_type type = (enum ggml_type)d->quant.expert;
    int step = largest((int)ggml_blck_size(type), 32);
    uint64_t step_bytes = 3 * (uint64_t)d->embd * ggml_row_size(type, step);
    uint64_t steps = (wanted + step_bytes / 2) / step_bytes;
    return step * (int)fb_min(fb_max(steps, 1), (1 << 20) / (uint64_t)step);
}

static enum forebay_status replay_dims(const struct fb_synth_replay *replay,
    const struct fb_trace *trace, struct fb_dims *out, struct forebay_error *err)
{
    int wide = (int)fb_round_up((uint64_t)trace->n_tokens, 256);
    struct fb_synth_shape shape;
    fb_synth_shape_init(&shape);
    shape.arch = "qwen3moe";
    shape.type = replay->type;
    shape.embd = replay->embd ? replay->embd : largest(DEFAULT_EMBD, wide);
    shape.heads = replay->heads;
    shape.layers = trace->n_layer;
    shape.experts = trace->n_expert;
    shape.experts_used = trace->top_k;
    shape.vocab = trace->n_tokens + FB_SYNTH_EXTRA_TOKENS;
    shape.ctx = largest(4096, 2 * trace->n_tokens);
    enum forebay_status status = fb_dims_resolve(&shape, out, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (out->embd < trace->n_tokens) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a larger --embd, or use --tokens.",
            "a width of %d has no room for the directions of %d tokens", out->embd,
            trace->n_tokens);
    }
    shape.ff = choose_ff(replay, out);
    return fb_dims_resolve(&shape, out, err);
}

/* Sets the types and spreads that the construction needs. */
static void adjust_tensors(
    const struct fb_dims *d, const struct fb_trace *trace, struct fb_synth_model *model)
{
    float root_layers = sqrtf((float)d->layers);
    for (int i = 0; i < model->n_tensors; i++) {
        struct fb_synth_tensor *t = &model->tensors[i];
        switch (t->part) {
        case FB_PART_EMBEDDING:
        case FB_PART_OUTPUT:
            t->type = GGML_TYPE_F32;
            break;
        case FB_PART_OTHER: /* norms */
            t->spread = 0.0f;
            break;
        case FB_PART_ATTN_OUT:
            t->spread *= NOISE_ATTENTION / root_layers;
            break;
        case FB_PART_EXPERT_DOWN: /* the mean of top_k independent experts is smaller than one */
            t->spread *= NOISE_EXPERTS / root_layers / FFN_RMS * sqrtf((float)trace->top_k);
            break;
        default:
            break;
        }
    }
}

static enum forebay_status write_replay(const struct fb_synth_replay *replay,
    const struct fb_trace *trace, const struct fb_dims *dims, const char *path,
    struct fb_synth_report *report, struct forebay_error *err)
{
    struct fb_synth_model model;
    fb_dims_build(dims, &model);
    adjust_tensors(dims, trace, &model);
    char about[sizeof trace->model + 32];
    snprintf(about, sizeof about, "replay of a trace of %s", trace->model);
    gguf_set_val_str(model.meta, "general.description", about);
    struct replay_source replaying = {.model = &model,
        .trace = trace,
        .rows = fb_random_rows_new(replay->output.seed),
        .seed = replay->output.seed,
        .embd = dims->embd};
    struct fb_synth_source source = {.rows = replay_rows, .user = &replaying};
    enum forebay_status status = make_directions(&replaying, err);
    if (status == FOREBAY_OK) {
        status = fb_synth_write(&model, &source, &replay->output, path, report, err);
    }
    if (report && status == FOREBAY_OK) {
        char shape[200];
        report->parameters = fb_synth_model_parameters(&model);
        report->expert_bytes = fb_dims_expert_bytes(dims);
        fb_dims_describe(dims, shape, sizeof shape);
        snprintf(report->shape, sizeof report->shape, "%d tokens of a trace: %s", trace->n_tokens,
            shape);
    }
    free(replaying.directions);
    fb_random_rows_free(replaying.rows);
    fb_synth_model_release(&model);
    return status;
}

enum forebay_status fb_synth_replay(const struct fb_synth_replay *replay, const char *trace_path,
    const char *path, struct fb_synth_report *report, struct forebay_error *err)
{
    struct fb_trace trace;
    enum forebay_status status = fb_trace_read(trace_path,
        &(struct fb_trace_part){.layers = replay->layers, .tokens = replay->tokens}, &trace, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    struct fb_dims dims;
    struct fb_synth_replay guarded = *replay;
    guarded.output.inputs = &trace_path;
    guarded.output.n_inputs = 1;
    status = replay_dims(replay, &trace, &dims, err);
    if (status == FOREBAY_OK) {
        status = write_replay(&guarded, &trace, &dims, path, report, err);
    }
    fb_trace_release(&trace);
    return status;
}
