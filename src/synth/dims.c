/*
 * dims.c - chooses the dimensions that the options leave open, also to match a size.
 *
 * Dimensions grow together in classes of size, as those of real models do. Without a size the
 * numbers come from the class of the given width, or the default one. With a size its class gives
 * the width and the number of experts; then a binary search finds the number of layers, another the
 * width of the FFN.
 */
#include "synth/dims.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "model/limits.h"
#include "synth/vocab.h"

#include "ggml.h"

#define FF_STEP 256 /* the largest block of any tensor type; usual widths are multiples */
#define FF_MAX  (1 << 20)

static const struct size_class {
    uint64_t up_to_bytes;
    int embd, layers, experts, expert_ff_max, vocab;
} classes[] = {
    {16 * FB_MIB, 256, 2, 8, 256, 512}, {256 * FB_MIB, 512, 4, 16, 1024, 1024},
    {2 * FB_GIB, 1024, 8, 32, FF_MAX, 2048}, {16 * FB_GIB, 2048, 16, 64, FF_MAX, 2048},
    {128 * FB_GIB, 4096, 32, 128, FF_MAX, 4096},
    {UINT64_MAX, 7168, 61, 384, FF_MAX,
        1024}, /* small embeddings: a sparse file really holds them */
};

#define N_CLASSES     ((int)(sizeof classes / sizeof *classes))
#define CLASS_DEFAULT 2
#define DENSE_SHARE   8 /* a dense model is about so many times smaller than one with experts */

static int choose(int given, int otherwise)
{
    return given > 0 ? given : otherwise;
}

static const struct size_class *find_class(const struct fb_synth_shape *s, const struct fb_dims *d)
{
    uint64_t bytes = s->size_bytes;
    if (s->parameters) {
        enum ggml_type type = (enum ggml_type)d->quant.expert;
        bytes = s->parameters / (uint64_t)ggml_blck_size(type) * ggml_type_size(type);
    }
    bool dense = d->arch->experts == 0 && s->experts == 0;
    for (int i = 0; bytes && i < N_CLASSES; i++) {
        if (bytes <= classes[i].up_to_bytes / (dense ? DENSE_SHARE : 1)) {
            return &classes[i];
        }
    }
    for (int i = 0; s->embd > 0 && i < N_CLASSES; i++) {
        if (s->embd <= classes[i].embd || i == N_CLASSES - 1) {
            return &classes[i];
        }
    }
    return &classes[CLASS_DEFAULT];
}

/* --- Checks ------------------------------------------------------------------------------- */

static enum forebay_status in_range(
    const char *what, int value, int low, int high, struct forebay_error *err)
{
    if (value < low || value > high) {
        return fb_fail(
            err, FOREBAY_E_USAGE, "", "%s: %d is not between %d and %d", what, value, low, high);
    }
    return FOREBAY_OK;
}

static enum forebay_status check_attention(const struct fb_dims *d, struct forebay_error *err)
{
    if (d->embd % d->heads != 0 || d->head_dim % 2 != 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "Choose a number of heads that divides the width.",
            "%d heads do not divide a width of %d into even parts", d->heads, d->embd);
    }
    if (d->heads % d->kv_heads != 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "Choose a number of KV heads that divides the heads.",
            "%d KV heads do not divide %d heads", d->kv_heads, d->heads);
    }
    if ((d->arch->flags & ARCH_MHA) && d->kv_heads != d->heads) {
        return fb_fail(err, FOREBAY_E_USAGE, "Leave --kv-heads out.",
            "%s has as many KV heads as heads", d->arch->name);
    }
    return FOREBAY_OK;
}

static enum forebay_status check_experts(const struct fb_dims *d, struct forebay_error *err)
{
    const struct fb_arch *a = d->arch;
    if (d->experts > 0 && a->experts == 0 && !(a->flags & ARCH_ONE_FF_KEY)) {
        return fb_fail(err, FOREBAY_E_USAGE, "Leave --experts out.", "%s has no experts", a->name);
    }
    if (d->experts == 0 && (d->used > 0 || a->experts > 0)) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "%s needs a number of experts", a->name);
    }
    if (d->used > d->experts) {
        return fb_fail(
            err, FOREBAY_E_USAGE, "", "%d of %d experts cannot be used", d->used, d->experts);
    }
    bool shared_fits = a->shared_experts == 0 ? d->shared == 0
                       : a->one_shared        ? d->shared == 1
                                              : d->shared >= 1;
    if (!shared_fits) {
        return fb_fail(err, FOREBAY_E_USAGE, "Leave --shared-experts out.",
            "%s cannot have %d shared experts", a->name, d->shared);
    }
    if (d->fused && !(a->flags & ARCH_CAN_FUSE_EXPERTS)) {
        return fb_fail(err, FOREBAY_E_USAGE, "Try deepseek2 or qwen3next.",
            "%s has no fused gate and up experts", a->name);
    }
    return FOREBAY_OK;
}

static enum forebay_status check(const struct fb_dims *d, struct forebay_error *err)
{
    const struct {
        const char *what;
        int value, low, high;
    } limits[] = {
        {"layers", d->layers, 1, FB_MAX_LAYERS},
        {"width", d->embd, 32, 65536},
        {"heads", d->heads, 1, 512},
        {"KV heads", d->kv_heads, 1, 512},
        {"FFN width", d->experts ? d->expert_ff : d->ff, 32, FF_MAX},
        {"experts", d->experts, 0, FB_MAX_EXPERTS},
        {"experts used", d->used, 0, FB_MAX_EXPERTS},
        {"shared experts", d->shared, 0, 16},
        {"vocabulary", d->vocab, FB_SYNTH_EXTRA_TOKENS + 1, 1 << 22},
        {"context", d->ctx, 16, 1 << 24},
    };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        enum forebay_status status =
            in_range(limits[i].what, limits[i].value, limits[i].low, limits[i].high, err);
        if (status != FOREBAY_OK) {
            return status;
        }
    }
    if (d->embd % 32 != 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "a width of %d is no multiple of 32", d->embd);
    }
    if (d->arch->layer_step && d->layers % d->arch->layer_step != 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "%s needs a multiple of %d layers, not %d",
            d->arch->name, d->arch->layer_step, d->layers);
    }
    enum forebay_status status = check_attention(d, err);
    return status == FOREBAY_OK ? check_experts(d, err) : status;
}

/* --- Choices ------------------------------------------------------------------------------ */

static int usual_heads(int embd)
{
    static const int large[] = {128, 64, 96, 80, 32, 16};
    static const int small[] = {64, 32, 16, 128, 96, 80};
    const int *sizes = embd >= 1024 ? large : small;
    for (int i = 0; i < 6; i++) {
        if (embd % sizes[i] == 0) {
            return embd / sizes[i];
        }
    }
    return 1;
}

/* A quarter of the heads, or the next smaller number that divides them. */
static int usual_kv_heads(int heads)
{
    int n = heads >= 4 ? heads / 4 : 1;
    while (heads % n != 0) {
        n--;
    }
    return n;
}

static void choose_attention(const struct fb_synth_shape *s, struct fb_dims *d)
{
    d->heads = choose(s->heads, usual_heads(d->embd));
    bool all = (d->arch->flags & ARCH_MHA) != 0;
    d->kv_heads = choose(s->kv_heads, all ? d->heads : usual_kv_heads(d->heads));
    d->head_dim = d->embd / d->heads;
    bool small = d->embd < 1024;
    d->nope = small ? 64 : 128;
    d->rope = small ? 32 : 64;
    d->v_dim = small ? 64 : 128;
    d->kv_rank = small ? 256 : 512;
    d->q_rank = (int)fb_min(1536, fb_round_up((uint64_t)d->embd / 2, 256));
}

static void choose_ffn(
    const struct fb_synth_shape *s, const struct size_class *class, struct fb_dims *d)
{
    const struct fb_arch *a = d->arch;
    /* with the size of a model many small experts grow in number, few large ones only in size */
    bool few = a->experts < 64 && a->experts < class->experts;
    int most = few ? a->experts : class->experts;
    int usual = (int)fb_round_up((uint64_t)d->embd * (uint64_t)a->ff_eighths / 8, FF_STEP);
    d->fused = s->fused_experts;
    d->experts = s->experts > 0 || a->experts == 0 ? s->experts : most;
    if (d->experts == 0) {
        d->used = s->experts_used;
        d->shared = s->shared_experts > 0 ? s->shared_experts : a->shared_experts;
        d->ff = choose(s->ff, usual);
        return;
    }
    int half = d->experts > 1 ? d->experts / 2 : 1;
    d->used = choose(s->experts_used, a->experts_used < half ? a->experts_used : half);
    d->shared = s->shared_experts >= 0 ? s->shared_experts : a->shared_experts;
    d->expert_ff = choose(s->ff, usual < class->expert_ff_max ? usual : class->expert_ff_max);
    d->ff = (d->used + d->shared) * d->expert_ff;
    d->dense_layers = a->dense_layers < d->layers ? a->dense_layers : d->layers - 1;
}

static void choose_all(
    const struct fb_synth_shape *s, const struct size_class *class, struct fb_dims *d)
{
    int step = choose(d->arch->layer_step, 1);
    d->layers = choose(s->layers, (int)fb_round_up((uint64_t) class->layers, (uint64_t)step));
    d->embd = choose(s->embd, class->embd);
    d->vocab = choose(s->vocab, class->vocab);
    d->ctx = choose(s->ctx, (d->arch->flags & ARCH_POSITION_EMBD) ? 1024 : 4096);
    choose_attention(s, d);
    choose_ffn(s, class, d);
}

/* --- Matching a size ----------------------------------------------------------------------- */

struct search {
    struct fb_synth_shape shape; /* layers and ff are filled in while searching */
    const struct size_class *class;
    struct fb_dims dims;
    struct fb_synth_model scratch;
    bool by_parameters;
    uint64_t target;
};

static uint64_t measure(struct search *s, int *number, int value)
{
    *number = value;
    choose_all(&s->shape, s->class, &s->dims);
    fb_synth_model_clear(&s->scratch);
    fb_dims_tensors(&s->dims, &s->scratch);
    return s->by_parameters ? fb_synth_model_parameters(&s->scratch)
                            : fb_synth_model_bytes(&s->scratch);
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* FF must be a multiple of this: the rows of the down matrices consist of whole blocks. */
static int ff_step(const struct fb_dims *d)
{
    int64_t expert = ggml_blck_size((enum ggml_type)d->quant.expert);
    int64_t more = ggml_blck_size((enum ggml_type)d->quant.more);
    int64_t step = expert > more ? expert : more;
    return step > 32 ? (int)step : 32;
}

/* Sets *number (a field of s->shape) to the multiple of `step` nearest to the target. */
static void search_number(struct search *s, int *number, int step, int max)
{
    int low = 1, high = max / step; /* the answer is low or low + 1 */
    while (low + 1 < high) {
        int middle = low + (high - low) / 2;
        if (measure(s, number, middle * step) <= s->target) {
            low = middle;
        } else {
            high = middle;
        }
    }
    uint64_t below = measure(s, number, low * step);
    uint64_t above = measure(s, number, high * step);
    int best = distance(below, s->target) <= distance(above, s->target) ? low : high;
    measure(s, number, best * step);
}

static enum forebay_status match_size(struct search *s, struct forebay_error *err)
{
    bool free_layers = s->shape.layers == 0, free_ff = s->shape.ff == 0;
    if (!free_layers && !free_ff) {
        return fb_fail(err, FOREBAY_E_USAGE, "Leave --layers or --ff out.",
            "the size cannot be chosen when both layers and FFN width are given");
    }
    if (free_layers) {
        search_number(s, &s->shape.layers, choose(s->dims.arch->layer_step, 1), FB_MAX_LAYERS);
    }
    if (free_ff) {
        search_number(s, &s->shape.ff, ff_step(&s->dims), FF_MAX);
    }
    uint64_t got = s->by_parameters ? fb_synth_model_parameters(&s->scratch)
                                    : fb_synth_model_bytes(&s->scratch);
    if (distance(got, s->target) > s->target / 4) {
        return fb_fail(err, FOREBAY_E_USAGE,
            "Give --embd, --experts or --vocab values that suit the size.",
            "the %s nearest to %.4g is %.4g", s->by_parameters ? "number of parameters" : "size",
            (double)s->target, (double)got);
    }
    return FOREBAY_OK;
}

enum forebay_status fb_dims_resolve(
    const struct fb_synth_shape *shape, struct fb_dims *out, struct forebay_error *err)
{
    struct fb_dims d = {.arch = shape->arch ? fb_arch_find(shape->arch) : NULL};
    if (!d.arch) {
        return fb_fail(err, FOREBAY_E_USAGE, "The help lists the architectures.",
            "unknown architecture '%s'", shape->arch ? shape->arch : "");
    }
    const char *type = shape->type ? shape->type : d.arch->type ? d.arch->type : "Q4_K";
    enum forebay_status status = fb_synth_quant_parse(type, &d.quant, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    const struct size_class *class = find_class(shape, &d);
    choose_all(shape, class, &d);
    status = check(&d, err);
    if (status != FOREBAY_OK || (!shape->size_bytes && !shape->parameters)) {
        *out = d;
        return status;
    }
    struct search s = {.shape = *shape,
        .class = class,
        .dims = d,
        .by_parameters = shape->parameters > 0,
        .target = shape->parameters ? shape->parameters : shape->size_bytes};
    status = match_size(&s, err);
    *out = s.dims;
    fb_synth_model_release(&s.scratch);
    return status == FOREBAY_OK ? check(out, err) : status;
}
