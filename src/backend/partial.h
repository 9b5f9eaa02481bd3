/*
 * partial.h - expert nodes of which some experts are still being read: the rows of the others are
 * computed meanwhile.
 *
 *      begin(up) ---> begin(gate) ---> complete: the other rows of up, the other rows of gate
 *      the rows that  the rows that    each when its reads are over
 *      are present    are present
 *
 * Nodes that are open together have the same input, so neither waits for the other. Only nodes of
 * few rows are computed in this way; for more, gathering costs more than it saves.
 */
#ifndef FB_BACKEND_PARTIAL_H
#define FB_BACKEND_PARTIAL_H

#include "backend/gather.h"

struct fb_partials;

struct fb_partials *fb_partials_new(void);
void fb_partials_free(struct fb_partials *p);

/* Whether the node has few enough rows. */
bool fb_partials_fit(const struct ggml_tensor *node);

/* Whether the open nodes must be completed before this one is computed. */
bool fb_partials_block(const struct fb_partials *p, const struct ggml_tensor *node);

/* Opens a node that fits and is not blocked: computes the queue, and the rows whose experts are in
 * memory. `lease` and `routing` are the layer's; they must outlive the node's completion. */
enum ggml_status fb_partials_begin(struct fb_partials *p, struct fb_exec *ex,
    const struct fb_lease *lease, const struct fb_routing *routing, struct ggml_tensor *node,
    const struct fb_tensor_claim *claim);

/* Waits for the other experts, computes the other rows of all open nodes, and closes them. */
enum ggml_status fb_partials_complete(struct fb_partials *p, struct fb_exec *ex,
    struct fb_lease *lease, const struct fb_routing *routing);

/* Closes all as they are. */
void fb_partials_drop(struct fb_partials *p);

#endif
