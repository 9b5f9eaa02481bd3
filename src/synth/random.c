/* random.c - models of random weights, whole or sparse. */
#include "synth/synth.h"

#include "base/error.h"
#include "synth/pool.h"
#include "synth/shape.h"
#include "synth/writer.h"

void st_synth_shape_init(struct st_synth_shape *shape)
{
    *shape = (struct st_synth_shape){.shared_experts = -1};
}

struct random_source {
    const struct st_synth_model *model;
    struct st_pool *pool;
    const struct st_dims *dims;
};

static enum strata_status random_rows(
    void *user, int tensor, int64_t row, int64_t n, void *out, struct strata_error *err)
{
    struct random_source *s = user;
    (void)err;
    st_pool_rows(s->pool, &s->model->tensors[tensor], tensor, row, n, out);
    return STRATA_OK;
}

/* --- Sparse ------------------------------------------------------------------------------- */

/* What may be written for real: about this much in all routers, and any other tensor this small. */
#define ROUTERS_BYTES (8u << 20)
#define SMALL_BYTES   (8u << 20)

/* Of each router a few rows are real, far more than zero or less for a given token, so that tokens
 * choose different experts; the experts of the zero rows fill up the rest. */
static int64_t router_step(const struct random_source *s, const struct st_synth_tensor *t)
{
    int64_t rows = ROUTERS_BYTES / s->dims->layers / (int64_t)st_synth_tensor_row_bytes(t);
    int64_t wish = 2 * (int64_t)s->dims->used;
    rows = rows < wish ? rows : wish;
    return rows > 0 ? (t->ne[1] + rows - 1) / rows : t->ne[1] + 1;
}

static int64_t random_hole(void *user, int tensor, int64_t row)
{
    struct random_source *s = user;
    const struct st_synth_tensor *t = &s->model->tensors[tensor];
    int64_t rest = st_synth_tensor_rows(t) - row;
    if (t->part == ST_PART_ROUTER) {
        return (row + t->layer) % router_step(s, t) == 0 ? 0 : 1;
    }
    bool wanted =
        t->part == ST_PART_OTHER || t->part == ST_PART_EMBEDDING || t->part == ST_PART_OUTPUT;
    return wanted && st_synth_tensor_bytes(t) <= SMALL_BYTES ? 0 : rest;
}

/* --- Both --------------------------------------------------------------------------------- */

static enum strata_status make(const struct st_synth_shape *shape, const char *path, bool sparse,
    struct st_synth_report *report, struct strata_error *err)
{
    struct st_dims dims;
    enum strata_status status = st_dims_resolve(shape, &dims, err);
    if (status) {
        return status;
    }
    struct st_synth_model model;
    st_dims_build(&dims, &model);
    struct random_source random = {&model, st_pool_new(shape->output.seed), &dims};
    struct st_synth_source source = {
        .rows = random_rows, .hole = sparse ? random_hole : NULL, .user = &random};
    status = st_synth_write(&model, &source, &shape->output, path, report, err);
    if (report && !status) {
        report->parameters = st_synth_model_parameters(&model);
        report->expert_bytes = st_dims_expert_bytes(&dims);
        st_dims_describe(&dims, report->shape, sizeof report->shape);
    }
    st_pool_free(random.pool);
    st_synth_model_release(&model);
    return status;
}

enum strata_status st_synth_random(const struct st_synth_shape *shape, const char *path,
    struct st_synth_report *report, struct strata_error *err)
{
    return make(shape, path, false, report, err);
}

enum strata_status st_synth_sparse(const struct st_synth_shape *shape, const char *path,
    struct st_synth_report *report, struct strata_error *err)
{
    return make(shape, path, true, report, err);
}
