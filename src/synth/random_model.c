/* random_model.c - models of random weights, complete or sparse. */
#include "synth/synth.h"

#include "base/error.h"
#include "synth/random_rows.h"
#include "synth/dims.h"
#include "synth/gguf_writer.h"

void fb_synth_shape_init(struct fb_synth_shape *shape)
{
    *shape = (struct fb_synth_shape){.shared_experts = -1};
}

struct random_source {
    const struct fb_synth_model *model;
    struct fb_random_rows *rows;
    const struct fb_dims *dims;
};

static enum forebay_status random_rows(
    void *user, int tensor, int64_t row, int64_t n, void *out, struct forebay_error *err)
{
    struct random_source *s = user;
    (void)err;
    fb_random_rows_get(s->rows, &s->model->tensors[tensor], tensor, row, n, out);
    return FOREBAY_OK;
}

/* --- Sparse ------------------------------------------------------------------------------- */

/* Data written to a sparse model: about this much in all routers, and other tensors of this
 * size. */
#define ROUTERS_BYTES (8u << 20)
#define SMALL_BYTES   (8u << 20)

/* A few rows of each router are data: for a given token their logits are far above or below zero,
 * so that tokens choose different experts. Experts of the zero rows fill up the rest. */
static int64_t router_step(const struct random_source *s, const struct fb_synth_tensor *t)
{
    int64_t rows = ROUTERS_BYTES / s->dims->layers / (int64_t)fb_synth_tensor_row_bytes(t);
    int64_t wish = 2 * (int64_t)s->dims->used;
    rows = rows < wish ? rows : wish;
    return rows > 0 ? (t->ne[1] + rows - 1) / rows : t->ne[1] + 1;
}

static int64_t random_hole(void *user, int tensor, int64_t row)
{
    struct random_source *s = user;
    const struct fb_synth_tensor *t = &s->model->tensors[tensor];
    int64_t rest = fb_synth_tensor_rows(t) - row;
    if (t->part == FB_PART_ROUTER) {
        return (row + t->layer) % router_step(s, t) == 0 ? 0 : 1;
    }
    bool wanted =
        t->part == FB_PART_OTHER || t->part == FB_PART_EMBEDDING || t->part == FB_PART_OUTPUT;
    return wanted && fb_synth_tensor_bytes(t) <= SMALL_BYTES ? 0 : rest;
}

/* --- Both --------------------------------------------------------------------------------- */

static enum forebay_status make(const struct fb_synth_shape *shape, const char *path, bool sparse,
    struct fb_synth_report *report, struct forebay_error *err)
{
    struct fb_dims dims;
    enum forebay_status status = fb_dims_resolve(shape, &dims, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    struct fb_synth_model model;
    fb_dims_build(&dims, &model);
    struct random_source random = {&model, fb_random_rows_new(shape->output.seed), &dims};
    struct fb_synth_source source = {
        .rows = random_rows, .hole = sparse ? random_hole : NULL, .user = &random};
    status = fb_synth_write(&model, &source, &shape->output, path, report, err);
    if (report && status == FOREBAY_OK) {
        report->parameters = fb_synth_model_parameters(&model);
        report->expert_bytes = fb_dims_expert_bytes(&dims);
        fb_dims_describe(&dims, report->shape, sizeof report->shape);
    }
    fb_random_rows_free(random.rows);
    fb_synth_model_release(&model);
    return status;
}

enum forebay_status fb_synth_random(const struct fb_synth_shape *shape, const char *path,
    struct fb_synth_report *report, struct forebay_error *err)
{
    return make(shape, path, false, report, err);
}

enum forebay_status fb_synth_sparse(const struct fb_synth_shape *shape, const char *path,
    struct fb_synth_report *report, struct forebay_error *err)
{
    return make(shape, path, true, report, err);
}
