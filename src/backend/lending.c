/*
 * lending.c - counts the blocks that a graph's nodes touch.
 *
 * A pass may come as several graphs, and llama.cpp writes inputs before the first of them. So
 * blocks are given back between passes only (fb_binding_pass).
 */
#include "backend/lending.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"

#define BLOCK_BYTES (64 * FB_KIB)
/* A context's buffers have room for this, whatever the batch: nodes whose size is the model's. */
#define OWN_LEAST (4 * FB_MIB)
/* So many passes of a few tokens must follow a batch before its memory becomes slots again: a
 * server's batches alternate with single tokens. */
#define PASSES_WITHOUT 4
/* After so many, and then now and then, it is seen how much of the slack is in use. */
#define PASSES_SETTLED 8
#define PASSES_BETWEEN 64
/* What is kept for small allocations all the same. */
#define SLACK_LEAST (8 * FB_MIB)

/* --- Buffers --------------------------------------------------------------------------------- */

static size_t n_blocks(ggml_backend_buffer_t buffer)
{
    return ggml_backend_buffer_get_size(buffer) / BLOCK_BYTES + 1;
}

void fb_lending_add(struct fb_lending *l, ggml_backend_buffer_t buffer, void *base)
{
    l->results_bytes += ggml_backend_buffer_get_size(buffer);
    if (l->n_lenders < FB_MAX_LENDERS) {
        l->lenders[l->n_lenders++] =
            (struct fb_lender){buffer, base, fb_xcalloc(n_blocks(buffer), 1)};
    }
}

void fb_lending_remove(struct fb_lending *l, ggml_backend_buffer_t buffer)
{
    l->results_bytes -= ggml_backend_buffer_get_size(buffer);
    for (int i = 0; i < l->n_lenders; i++) {
        if (l->lenders[i].buffer == buffer) {
            free(l->lenders[i].touched);
            l->lenders[i] = l->lenders[--l->n_lenders];
            return;
        }
    }
}

/* The buffer of intermediate results that the tensor is in, or NULL. */
static struct fb_lender *lender_of(struct fb_lending *l, const struct ggml_tensor *t)
{
    const struct ggml_tensor *whole = t->view_src ? t->view_src : t;
    for (int i = 0; i < l->n_lenders; i++) {
        if (l->lenders[i].buffer == whole->buffer) {
            bool results =
                ggml_backend_buffer_get_usage(whole->buffer) == GGML_BACKEND_BUFFER_USAGE_COMPUTE;
            return results ? &l->lenders[i] : NULL;
        }
    }
    return NULL;
}

static void touch(struct fb_lending *l, const struct ggml_tensor *t)
{
    struct fb_lender *lender = lender_of(l, t);
    size_t bytes = ggml_nbytes(t);
    if (!lender || bytes == 0) {
        return;
    }
    size_t offset = (size_t)((const char *)t->data - lender->base);
    for (size_t i = offset / BLOCK_BYTES; i <= (offset + bytes - 1) / BLOCK_BYTES; i++) {
        l->touched_bytes += lender->touched[i] ? 0 : BLOCK_BYTES;
        lender->touched[i] = 1;
    }
}

/* --- Passes ---------------------------------------------------------------------------------- */

uint64_t fb_lending_own(uint64_t results_bytes, uint32_t batch, uint32_t rows)
{
    return fb_min(results_bytes, results_bytes / batch * rows + OWN_LEAST);
}

void fb_lending_enable(
    struct fb_lending *l, uint32_t rows, uint64_t own_bytes, uint64_t slack_bytes)
{
    l->enabled = true;
    l->rows = l->most_tokens = rows;
    l->own_bytes = own_bytes;
    l->slack_bytes = l->most_slack_bytes = slack_bytes;
    for (int i = 0; i < l->n_lenders; i++) { /* blocks are small */
        fb_vm_small_pages(l->lenders[i].base, ggml_backend_buffer_get_size(l->lenders[i].buffer));
    }
}

static void give_back(struct fb_lending *l)
{
    for (int i = 0; i < l->n_lenders; i++) {
        struct fb_lender *lender = &l->lenders[i];
        if (ggml_backend_buffer_get_usage(lender->buffer) == GGML_BACKEND_BUFFER_USAGE_COMPUTE) {
            fb_vm_discard(lender->base, ggml_backend_buffer_get_size(lender->buffer));
            memset(lender->touched, 0, n_blocks(lender->buffer));
        }
    }
    l->touched_bytes = 0;
    l->most_tokens = l->rows;
    l->returned = true;
}

bool fb_lending_pass(struct fb_lending *l, uint32_t tokens)
{
    if (!l->enabled) {
        return false;
    }
    l->few_passes = tokens > l->rows ? 0 : l->few_passes + 1;
    if (l->few_passes == PASSES_WITHOUT && l->most_tokens > l->rows) {
        give_back(l);
    }
    l->most_tokens = (uint32_t)fb_max(l->most_tokens, tokens);
    return l->most_slack_bytes > 0 && l->few_passes % PASSES_BETWEEN == PASSES_SETTLED;
}

void fb_lending_settle(struct fb_lending *l, uint64_t used_bytes)
{
    l->slack_bytes = fb_min(l->most_slack_bytes, fb_round_up(used_bytes, FB_MIB) + SLACK_LEAST);
}

uint64_t fb_lending_count(struct fb_lending *l, struct ggml_cgraph *graph)
{
    if (!l->enabled) {
        return 0;
    }
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const struct ggml_tensor *node = ggml_graph_node(graph, i);
        touch(l, node);
        for (int s = 0; s < GGML_MAX_SRC && node->src[s]; s++) {
            touch(l, node->src[s]);
        }
    }
    return l->touched_bytes - fb_min(l->touched_bytes, l->own_bytes) + l->slack_bytes;
}
