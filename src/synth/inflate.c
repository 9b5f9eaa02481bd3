/*
 * inflate.c - turns a small model into a large mixture of experts that generates the same text.
 *
 * Each expert is the whole FFN (or one expert) of the source with its neurons in another order and
 * zero neurons between them (neurons.h): the order of neurons does not change the result of a gated
 * FFN, and a zero neuron adds nothing.
 *
 *   dense source   every expert computes the same, and the weights of the chosen ones sum to one,
 *                  so the router may be random
 *   mixture        each expert is copied several times, with equal router rows; with used * copies
 *                  experts chosen, all copies of the source's choice are chosen and share its
 *                  weight (with fewer, no choice would give that sum, so the number used cannot be
 *                  set)
 */
#include "synth/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "model/catalog.h"
#include "model/limits.h"
#include "synth/neurons.h"
#include "synth/random_rows.h"
#include "synth/quant.h"
#include "synth/rename.h"
#include "synth/gguf_writer.h"

#include "ggml.h"
#include "gguf.h"

#define MAX_FF (1 << 20)

void fb_synth_inflate_init(struct fb_synth_inflate *inflate)
{
    memset(inflate, 0, sizeof *inflate);
}

/* How the rows of a tensor are derived from the source. */
enum origin_kind {
    AS_IS,
    NEURON_ROWS,    /* gate, up */
    NEURON_COLUMNS, /* down; also the biases of gate and up, one row per expert */
    EXPERT_ROWS,    /* one row per expert */
    EXPERT_ITEMS,   /* one number per expert */
    NEW_ROUTER,
};

struct row_origin {
    enum origin_kind kind;
    int tensor; /* of the source; -1: none */
};

struct inflating {
    const struct fb_synth_inflate *options;
    struct fb_catalog *source;
    struct fb_synth_model model;
    struct row_origin *origins; /* per tensor of the model */
    struct fb_random_rows *rows;
    struct fb_neurons neurons;
    bool dense;
    int experts, used;
};

/* --- Sources that can be inflated --------------------------------------------------------- */

/* Dense architectures, each with the architecture that computes the same with experts. */
static const char *const dense_archs[][2] = {
    {"llama", "llama"}, {"qwen3", "qwen3moe"}, {"granite", "granitemoe"}};

/* Mixtures whose expert weights are a softmax, so that copies share one weight. */
static const char *const softmax_archs[] = {
    "llama", "qwen2moe", "qwen3moe", "olmoe", "gpt-oss", "granitemoe", "dbrx", "phimoe"};

static const struct {
    const char *from, *to; /* after "blk.N." */
    bool dense;
    enum origin_kind kind;
} rules[] = {
    {"ffn_gate.weight", "ffn_gate_exps.weight", true, NEURON_ROWS},
    {"ffn_up.weight", "ffn_up_exps.weight", true, NEURON_ROWS},
    {"ffn_down.weight", "ffn_down_exps.weight", true, NEURON_COLUMNS},
    {"ffn_gate_exps.weight", NULL, false, NEURON_ROWS},
    {"ffn_up_exps.weight", NULL, false, NEURON_ROWS},
    {"ffn_down_exps.weight", NULL, false, NEURON_COLUMNS},
    {"ffn_gate_exps.bias", NULL, false, NEURON_COLUMNS},
    {"ffn_up_exps.bias", NULL, false, NEURON_COLUMNS},
    {"ffn_down_exps.bias", NULL, false, EXPERT_ROWS},
    {"ffn_gate_inp.weight", NULL, false, EXPERT_ROWS},
    {"ffn_gate_inp.bias", NULL, false, EXPERT_ITEMS},
    {"exp_probs_b.bias", NULL, false, EXPERT_ITEMS},
};

#define N_RULES ((int)(sizeof rules / sizeof *rules))

/* The rest of the name after "blk.N.", or "". */
static const char *layer_part(const char *name)
{
    int end = 0;
    int layer;
    return sscanf(name, "blk.%d.%n", &layer, &end) == 1 && end > 0 ? name + end : "";
}

static int find_rule(const struct inflating *f, const char *name)
{
    const char *part = layer_part(name);
    for (int i = 0; i < N_RULES; i++) {
        if (rules[i].dense == f->dense && strcmp(part, rules[i].from) == 0) {
            return i;
        }
    }
    return -1;
}

/* Tensors of the FFN that no rule covers. */
static bool is_foreign(const struct inflating *f, const char *name)
{
    const char *part = layer_part(name);
    if (f->dense) {
        return strncmp(part, "ffn_gate.", 9) == 0 || strncmp(part, "ffn_up.", 7) == 0 ||
               strncmp(part, "ffn_down.", 9) == 0;
    }
    return strstr(part, "_exps.") != NULL;
}

static enum forebay_status check_arch(
    const struct inflating *f, const char **arch, struct forebay_error *err)
{
    const char *own = f->source->arch;
    *arch = own;
    if (f->dense) {
        for (size_t i = 0; i < sizeof dense_archs / sizeof *dense_archs; i++) {
            if (strcmp(own, dense_archs[i][0]) == 0) {
                *arch = dense_archs[i][1];
                return FOREBAY_OK;
            }
        }
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Use a model of type llama, qwen3 or granite.",
            "no mixture of experts computes the same as a dense %s model", own);
    }
    for (size_t i = 0; i < sizeof softmax_archs / sizeof *softmax_archs; i++) {
        if (strcmp(own, softmax_archs[i]) == 0) {
            return FOREBAY_OK;
        }
    }
    return f->experts == f->neurons.source_experts
               ? FOREBAY_OK
               : fb_fail(err, FOREBAY_E_UNSUPPORTED,
                     "Keep its number of experts and only widen them with --ff.",
                     "copies of experts would change the results of %s", own);
}

/* --- Numbers ------------------------------------------------------------------------------ */

static enum forebay_status choose_experts(struct inflating *f, struct forebay_error *err)
{
    const struct fb_synth_inflate *o = f->options;
    const struct fb_catalog *c = f->source;
    f->dense = c->n_expert == 0;
    f->neurons.source_experts = f->dense ? 1 : c->n_expert;
    f->experts = o->experts ? o->experts : c->n_expert;
    if (f->experts < 1 || f->experts > FB_MAX_EXPERTS ||
        f->experts % f->neurons.source_experts != 0) {
        return fb_fail(err, FOREBAY_E_USAGE,
            "Give --experts: up to 1024, a multiple of those the model has.",
            "%d experts cannot be made of %d", f->experts, f->neurons.source_experts);
    }
    int copies = f->experts / f->neurons.source_experts;
    int usual = f->dense ? (f->experts < 2 ? 1 : 2) : c->n_expert_used * copies;
    f->used = o->experts_used ? o->experts_used : usual;
    if (!f->dense && f->used != usual) {
        return fb_fail(err, FOREBAY_E_USAGE, "Leave --used out.",
            "%d copies of each expert need %d experts per token to keep the text, not %d", copies,
            usual, f->used);
    }
    if (f->used < 1 || f->used > f->experts) {
        return fb_fail(
            err, FOREBAY_E_USAGE, "", "%d of %d experts cannot be used", f->used, f->experts);
    }
    return FOREBAY_OK;
}

static bool is_bias(const struct fb_tensor *t)
{
    return strstr(t->name, ".bias") != NULL;
}

static int target_type(const struct fb_tensor *t, int wanted)
{
    return wanted >= 0 && !is_bias(t) ? wanted : t->type;
}

/* True when llama.cpp derives the width of the shared experts from that of the others. */
static bool shared_follows_experts(const struct inflating *f)
{
    char key[128];
    snprintf(key, sizeof key, "%s.expert_shared_feed_forward_length", f->source->arch);
    for (int i = 0; i < f->source->n_tensors; i++) {
        if (f->source->tensors[i].role == FB_ROLE_SHARED_EXPERT) {
            return gguf_find_key(f->source->meta, key) < 0;
        }
    }
    return false;
}

/* Determines the width of the FFN and the size of the groups from all down matrices. */
static enum forebay_status measure_ffn(struct inflating *f, int wanted, struct forebay_error *err)
{
    struct fb_neurons *n = &f->neurons;
    n->group = 1;
    for (int i = 0; i < f->source->n_tensors; i++) {
        const struct fb_tensor *t = &f->source->tensors[i];
        int rule = find_rule(f, t->name);
        if (rule < 0 && is_foreign(f, t->name)) {
            return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Use another model.",
                "inflate has no rule for tensor %s", t->name);
        }
        if (rule < 0 || rules[rule].kind != NEURON_COLUMNS) {
            continue;
        }
        if (n->source_ff && n->source_ff != t->ne[0]) {
            return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Use another model.",
                "the layers have FFNs of different widths");
        }
        n->source_ff = t->ne[0];
        int64_t block = ggml_blck_size((enum ggml_type)target_type(t, wanted));
        n->group = block > n->group ? block : n->group;
    }
    return n->source_ff ? FOREBAY_OK
                        : fb_fail(err, FOREBAY_E_UNSUPPORTED, "Use another model.",
                              "%s has no gated FFN", f->source->files[0]->path);
}

/* The width at which the file has about the wanted size. */
static int64_t ff_of_size(const struct inflating *f, int wanted)
{
    const struct fb_neurons *n = &f->neurons;
    uint64_t size = f->options->size_bytes, others = 0, group = 0;
    for (int i = 0; i < f->source->n_tensors; i++) {
        const struct fb_tensor *t = &f->source->tensors[i];
        int rule = find_rule(f, t->name);
        enum origin_kind kind = rule < 0 ? AS_IS : rules[rule].kind;
        enum ggml_type type = (enum ggml_type)target_type(t, wanted);
        if (kind == NEURON_ROWS) {
            group += ggml_row_size(type, t->ne[0]) * (uint64_t)(n->group * f->experts);
        } else if (kind == NEURON_COLUMNS) {
            uint64_t rows = is_bias(t) ? 1 : (uint64_t)t->ne[1];
            group += ggml_row_size(type, n->group) * rows * (uint64_t)f->experts;
        } else {
            others += t->bytes;
        }
    }
    int64_t ff = size > others && group ? (int64_t)((size - others) / group) * n->group : 0;
    return ff > n->padded_ff ? (ff < MAX_FF ? ff : MAX_FF) : n->padded_ff;
}

static enum forebay_status choose_ff(struct inflating *f, int wanted, struct forebay_error *err)
{
    struct fb_neurons *n = &f->neurons;
    n->padded_ff = (int64_t)fb_round_up((uint64_t)n->source_ff, (uint64_t)n->group);
    n->ff = f->options->size_bytes ? ff_of_size(f, wanted)
            : f->options->ff       ? f->options->ff
                                   : n->padded_ff;
    if (n->ff != n->source_ff && shared_follows_experts(f)) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Leave --ff and --type out.",
            "in a %s model, wider experts would need wider shared experts", f->source->arch);
    }
    if (n->ff < n->padded_ff || n->ff % n->group != 0 || n->ff > MAX_FF) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "--ff must be a multiple of %d, from %d to %d",
            (int)n->group, (int)n->padded_ff, MAX_FF);
    }
    return FOREBAY_OK;
}

/* --- The tensors -------------------------------------------------------------------------- */

static struct fb_synth_tensor *append(struct inflating *f, enum origin_kind kind, int source,
    int type, int64_t ne0, int64_t ne1, int64_t ne2)
{
    int n = f->model.n_tensors;
    f->origins = fb_xrealloc(f->origins, (size_t)(n + 1) * sizeof *f->origins);
    f->origins[n] = (struct row_origin){kind, source};
    struct fb_synth_tensor *t = fb_synth_tensor_add(&f->model, type, ne0, ne1, ne2);
    if (source >= 0) {
        t->layer = f->source->tensors[source].layer;
    }
    return t;
}

/* The shape must match the model's key-values, because rows are read and written by number. */
static bool has_expected_shape(const struct inflating *f, const struct fb_tensor *t, int rule)
{
    int64_t ff = f->neurons.source_ff, n = f->neurons.source_experts;
    bool is_float = t->type == GGML_TYPE_F32;
    if (t->ne[3] != 1 || !fb_synth_quant_known(t->type)) {
        return false;
    }
    switch (rules[rule].kind) {
    case NEURON_ROWS:
        return t->ne[1] == ff && t->ne[2] == n;
    case NEURON_COLUMNS:
        return t->ne[0] == ff && (is_bias(t) ? is_float && t->ne[1] == n : t->ne[2] == n);
    case EXPERT_ROWS:
        return t->ne[1] == n && t->ne[2] == 1;
    default:
        return t->ne[0] == n && t->ne[1] == 1 && t->ne[2] == 1 && is_float;
    }
}

static enum forebay_status check_tensor(const struct inflating *f, const struct fb_tensor *t,
    int rule, int type, struct forebay_error *err)
{
    if (!has_expected_shape(f, t, rule)) {
        return fb_fail(err, FOREBAY_E_FORMAT, "The file may be damaged: download it again.",
            "%s: tensor %s does not have the shape of a model with %d experts and FFNs of %d",
            f->source->files[t->file]->path, t->name, f->neurons.source_experts,
            (int)f->neurons.source_ff);
    }
    if (rules[rule].kind == NEURON_ROWS && t->ne[0] % ggml_blck_size((enum ggml_type)type) != 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "Use a type with smaller blocks, like Q8_0.",
            "rows of %d weights cannot be stored as %s", (int)t->ne[0],
            ggml_type_name((enum ggml_type)type));
    }
    return FOREBAY_OK;
}

static void append_router(struct inflating *f, int layer, int64_t embd)
{
    struct fb_synth_tensor *t = append(f, NEW_ROUTER, -1, GGML_TYPE_F32, embd, f->experts, 0);
    fb_synth_tensor_name(t, "blk.%d.ffn_gate_inp.weight", layer);
    t->layer = layer;
    t->spread = 1.5f / sqrtf((float)embd); /* as in shape.c */
}

static enum forebay_status append_inflated(
    struct inflating *f, int source, int rule, int wanted, struct forebay_error *err)
{
    const struct fb_tensor *from = &f->source->tensors[source];
    enum origin_kind kind = rules[rule].kind;
    int type =
        kind == NEURON_ROWS || kind == NEURON_COLUMNS ? target_type(from, wanted) : from->type;
    enum forebay_status status = check_tensor(f, from, rule, type, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    int64_t ff = f->neurons.ff, n = f->experts;
    struct fb_synth_tensor *t;
    if (kind == NEURON_ROWS) {
        t = append(f, kind, source, type, from->ne[0], ff, n);
    } else if (kind == NEURON_COLUMNS) {
        bool bias = is_bias(from);
        t = append(f, kind, source, type, ff, bias ? n : from->ne[1], bias ? 0 : n);
    } else if (kind == EXPERT_ROWS) {
        t = append(f, kind, source, type, from->ne[0], n, 0);
    } else {
        t = append(f, kind, source, type, n, 0, 0);
    }
    const char *part = rules[rule].to ? rules[rule].to : rules[rule].from;
    fb_synth_tensor_name(t, "blk.%d.%s", from->layer, part);
    if (f->dense && kind == NEURON_COLUMNS) {
        append_router(f, from->layer, from->ne[1]);
    }
    return FOREBAY_OK;
}

static enum forebay_status append_all(struct inflating *f, int wanted, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    for (int i = 0; i < f->source->n_tensors && status == FOREBAY_OK; i++) {
        const struct fb_tensor *t = &f->source->tensors[i];
        int rule = find_rule(f, t->name);
        if (rule >= 0) {
            status = append_inflated(f, i, rule, wanted, err);
            continue;
        }
        struct fb_synth_tensor *to = append(f, AS_IS, i, t->type, t->ne[0], t->ne[1], t->ne[2]);
        to->n_dims = t->n_dims;
        to->ne[3] = t->ne[3];
        fb_synth_tensor_name(to, "%s", t->name);
    }
    return status;
}

/* --- Keys --------------------------------------------------------------------------------- */

static bool key_is(const struct inflating *f, const char *key, int64_t value)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", f->model.arch, key);
    int64_t id = gguf_find_key(f->model.meta, full);
    return id >= 0 && gguf_get_kv_type(f->model.meta, id) == GGUF_TYPE_UINT32 &&
           gguf_get_val_u32(f->model.meta, id) == value;
}

/* The key with the width of the experts differs between architectures; it is recognised by its
 * value. */
static void set_keys(struct inflating *f, const char *arch)
{
    fb_synth_model_init(&f->model, arch);
    fb_synth_copy_keys(f->model.meta, f->source->meta, f->source->arch, arch);
    bool all_alike = f->dense || key_is(f, "leading_dense_block_count", 0) ||
                     !key_is(f, "expert_feed_forward_length", f->neurons.source_ff);
    if (all_alike && key_is(f, "feed_forward_length", f->neurons.source_ff)) {
        fb_synth_key_u32(&f->model, "feed_forward_length", (uint32_t)f->neurons.ff);
    }
    if (f->dense || key_is(f, "expert_feed_forward_length", f->neurons.source_ff)) {
        fb_synth_key_u32(&f->model, "expert_feed_forward_length", (uint32_t)f->neurons.ff);
    }
    fb_synth_key_u32(&f->model, "expert_count", (uint32_t)f->experts);
    fb_synth_key_u32(&f->model, "expert_used_count", (uint32_t)f->used);
}

/* --- Rows --------------------------------------------------------------------------------- */

/* The numbers of a one-dimensional tensor, repeated for the copies. */
static enum forebay_status repeated_items(struct inflating *f, const struct fb_synth_tensor *to,
    const struct row_origin *origin, uint8_t *out, struct forebay_error *err)
{
    size_t item = ggml_type_size((enum ggml_type)to->type);
    size_t bytes = item * (size_t)f->neurons.source_experts;
    enum forebay_status status = fb_neurons_read(&f->neurons, origin->tensor, 0, out, bytes, err);
    for (int e = f->neurons.source_experts; e < f->experts && status == FOREBAY_OK; e++) {
        memcpy(out + (size_t)e * item, out + (size_t)(e % f->neurons.source_experts) * item, item);
    }
    return status;
}

static enum forebay_status one_row(
    struct inflating *f, int tensor, int64_t row, uint8_t *out, struct forebay_error *err)
{
    const struct fb_synth_tensor *to = &f->model.tensors[tensor];
    const struct row_origin *origin = &f->origins[tensor];
    uint64_t row_bytes = fb_synth_tensor_row_bytes(to);
    switch (origin->kind) {
    case NEW_ROUTER:
        fb_random_rows_get(f->rows, to, tensor, row, 1, out);
        return FOREBAY_OK;
    case EXPERT_ROWS:
        return fb_neurons_read(&f->neurons, origin->tensor,
            (uint64_t)(row % f->neurons.source_experts) * row_bytes, out, row_bytes, err);
    case EXPERT_ITEMS:
        return repeated_items(f, to, origin, out, err);
    default:
        return fb_neurons_row(
            &f->neurons, to, origin->tensor, origin->kind == NEURON_COLUMNS, row, out, err);
    }
}

static enum forebay_status inflate_rows(
    void *user, int tensor, int64_t row, int64_t n, void *out, struct forebay_error *err)
{
    struct inflating *f = user;
    uint64_t row_bytes = fb_synth_tensor_row_bytes(&f->model.tensors[tensor]);
    if (f->origins[tensor].kind == AS_IS) {
        return fb_neurons_read(&f->neurons, f->origins[tensor].tensor, (uint64_t)row * row_bytes,
            out, (uint64_t)n * row_bytes, err);
    }
    enum forebay_status status = FOREBAY_OK;
    uint8_t *to = out;
    for (int64_t i = 0; i < n && status == FOREBAY_OK; i++, to += row_bytes) {
        status = one_row(f, tensor, row + i, to, err);
    }
    return status;
}

/* --- The model ---------------------------------------------------------------------------- */

static enum forebay_status prepare(struct inflating *f, struct forebay_error *err)
{
    struct fb_synth_quant quant;
    const char *arch;
    enum forebay_status status = choose_experts(f, err);
    int wanted = -1;
    if (status == FOREBAY_OK && f->options->type) {
        status = fb_synth_quant_parse(f->options->type, &quant, err);
        wanted = status == FOREBAY_OK ? quant.expert : -1;
    }
    if (status == FOREBAY_OK) {
        status = check_arch(f, &arch, err);
    }
    if (status == FOREBAY_OK) {
        status = measure_ffn(f, wanted, err);
    }
    if (status == FOREBAY_OK) {
        status = choose_ff(f, wanted, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    set_keys(f, arch);
    return append_all(f, wanted, err);
}

static void describe(const struct inflating *f, struct fb_synth_report *report)
{
    uint64_t bytes = 0;
    int layer = -1; /* the first with experts */
    for (int i = 0; i < f->model.n_tensors; i++) {
        const struct fb_synth_tensor *t = &f->model.tensors[i];
        layer = layer < 0 && t->n_dims == 3 && f->origins[i].kind != AS_IS ? t->layer : layer;
        if (t->n_dims == 3 && t->layer == layer && f->origins[i].kind != AS_IS) {
            bytes += fb_synth_tensor_bytes(t);
        }
    }
    report->expert_bytes = bytes / (uint64_t)f->experts;
    report->parameters = fb_synth_model_parameters(&f->model);
    snprintf(report->shape, sizeof report->shape, "%s, %d layers, %d experts of %s (%d used)",
        f->model.arch, f->source->n_layer, f->experts, FB_SIZE(report->expert_bytes), f->used);
}

enum forebay_status fb_synth_inflate(const struct fb_synth_inflate *inflate, const char *source,
    const char *path, struct fb_synth_report *report, struct forebay_error *err)
{
    struct inflating f = {.options = inflate, .rows = fb_random_rows_new(inflate->output.seed)};
    enum forebay_status status = fb_catalog_open(source, false, &f.source, err);
    fb_neurons_init(&f.neurons, f.source, inflate->output.seed);
    if (status == FOREBAY_OK) {
        status = prepare(&f, err);
    }
    if (status == FOREBAY_OK) {
        struct fb_synth_source rows = {.rows = inflate_rows, .user = &f};
        struct fb_synth_output output = inflate->output;
        const char **inputs = fb_xcalloc((size_t)f.source->n_files, sizeof *inputs);
        for (int i = 0; i < f.source->n_files; i++) {
            inputs[i] = f.source->files[i]->path;
        }
        output.inputs = inputs;
        output.n_inputs = f.source->n_files;
        status = fb_synth_write(&f.model, &rows, &output, path, report, err);
        free(inputs);
    }
    if (status == FOREBAY_OK && report) {
        describe(&f, report);
    }
    fb_neurons_release(&f.neurons);
    free(f.origins);
    fb_synth_model_release(&f.model);
    fb_catalog_free(f.source);
    fb_random_rows_free(f.rows);
    return status;
}
