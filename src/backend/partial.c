#include "backend/partial.h"

#include <stdlib.h>

#include "base/error.h"

#define MAX_ROWS FB_GATHER_MIN_ROWS
#define MAX_OPEN 2 /* the products with the layer's input: up and gate */

/* A node of which only the experts that were in memory have been computed. */
struct partial {
    struct ggml_tensor *node;
    const struct fb_tensor_claim *claim;
    bool done[MAX_ROWS]; /* by expert of the lease, which has no more of them than rows */
};

struct fb_partials {
    int n_open;
    struct partial open[MAX_OPEN];
    struct fb_expert_row rows[MAX_ROWS]; /* to be computed now */
    struct fb_gather gather;
};

struct fb_partials *fb_partials_new(void)
{
    return fb_xcalloc(1, sizeof(struct fb_partials));
}

void fb_partials_free(struct fb_partials *p)
{
    if (p) {
        fb_gather_release(&p->gather);
        free(p);
    }
}

void fb_partials_drop(struct fb_partials *p)
{
    p->n_open = 0;
}

bool fb_partials_fit(const struct ggml_tensor *node)
{
    return ggml_nelements(node->src[2]) <= MAX_ROWS;
}

bool fb_partials_block(const struct fb_partials *p, const struct ggml_tensor *node)
{
    return p->n_open == MAX_OPEN || (p->n_open > 0 && node->src[1] != p->open[0].node->src[1]);
}

/* Lists the rows of the lease's experts that are present and not done, and marks them done. */
static int list_present(struct fb_partials *p, const struct fb_exec *ex,
    const struct fb_lease *lease, const struct fb_routes *routes, struct partial *node)
{
    const struct fb_weight *w = fb_claim_weight(ex->binding, node->claim);
    int n = 0, n_rows = routes->tokens * routes->picks;
    for (int i = 0; i < lease->n; i++) {
        int expert = lease->experts[i];
        if (node->done[i] || !fb_stream_has(ex->binding->stream, w->group, expert, 1u << w->part)) {
            continue;
        }
        node->done[i] = true;
        for (int r = 0; r < n_rows; r++) {
            if (routes->experts[r] == expert) {
                p->rows[n++] =
                    (struct fb_expert_row){r / routes->picks, r % routes->picks, lease->slots[i]};
            }
        }
    }
    return n;
}

static enum ggml_status compute_present(struct fb_partials *p, struct fb_exec *ex,
    const struct fb_lease *lease, const struct fb_routing *routing, struct partial *node)
{
    int n = list_present(p, ex, lease, &routing->routes, node);
    if (n == 0) {
        return fb_exec_flush(ex);
    }
    fb_gather_begin(&p->gather, node->node, &node->claim->form,
        routing->routes.tokens * routing->routes.picks, 1);
    struct ggml_tensor *slots = fb_exec_shadow_slots(ex, node->node->src[0], node->claim);
    fb_gather_add(&p->gather, ex, slots, p->rows, n, 1, 1);
    return fb_gather_compute(&p->gather, ex);
}

enum ggml_status fb_partials_begin(struct fb_partials *p, struct fb_exec *ex,
    const struct fb_lease *lease, const struct fb_routing *routing, struct ggml_tensor *node,
    const struct fb_tensor_claim *claim)
{
    FB_ASSERT(p->n_open < MAX_OPEN && fb_partials_fit(node) && lease->n <= MAX_ROWS);
    struct partial *opened = &p->open[p->n_open++];
    *opened = (struct partial){.node = node, .claim = claim};
    return compute_present(p, ex, lease, routing, opened);
}

enum ggml_status fb_partials_complete(struct fb_partials *p, struct fb_exec *ex,
    struct fb_lease *lease, const struct fb_routing *routing)
{
    enum ggml_status status = GGML_STATUS_SUCCESS;
    for (int i = 0; i < p->n_open && status == GGML_STATUS_SUCCESS; i++) {
        struct partial *node = &p->open[i];
        struct forebay_error error;
        int part = fb_claim_weight(ex->binding, node->claim)->part;
        status = fb_stream_lease_wait(ex->binding->stream, lease, part, &error) == FOREBAY_OK
                     ? compute_present(p, ex, lease, routing, node)
                     : fb_binding_fail(ex->binding, &error);
    }
    p->n_open = 0;
    return status;
}
