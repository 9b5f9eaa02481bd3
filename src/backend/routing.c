#include "backend/routing.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "ggml.h"

void fb_routing_release(struct fb_routing *r)
{
    free(r->rows);
    free(r->needed);
    free(r->uses);
    free(r->experts);
    *r = (struct fb_routing){0};
}

int fb_routing_id(const struct ggml_tensor *ids, int64_t pick, int64_t token)
{
    const char *at =
        (const char *)ids->data + token * (int64_t)ids->nb[1] + pick * (int64_t)ids->nb[0];
    return *(const int32_t *)at;
}

static void reserve(struct fb_routing *r, int n_rows, int n_expert)
{
    if (n_rows > r->cap_rows) {
        r->cap_rows = n_rows;
        r->experts = fb_xrealloc(r->experts, (size_t)n_rows * sizeof *r->experts);
    }
    if (n_expert > r->cap_expert) {
        size_t n = (size_t)n_expert;
        r->cap_expert = n_expert;
        r->rows = fb_xrealloc(r->rows, n * sizeof *r->rows);
        r->needed = fb_xrealloc(r->needed, n * sizeof *r->needed);
        r->uses = fb_xrealloc(r->uses, n * sizeof *r->uses);
    }
}

static void list_needed(struct fb_routing *r)
{
    r->n_needed = 0;
    for (int e = 0; e < r->n_expert; e++) {
        if (r->rows[e]) {
            r->uses[r->n_needed] = r->rows[e];
            r->needed[r->n_needed++] = e;
        }
    }
}

bool fb_routing_read(struct fb_routing *r, const struct ggml_tensor *ids, int n_expert, int *wrong)
{
    int picks = (int)ids->ne[0], tokens = (int)ids->ne[1];
    int *out;
    reserve(r, picks * tokens, n_expert);
    memset(r->rows, 0, (size_t)n_expert * sizeof *r->rows);
    out = r->experts;
    for (int t = 0; t < tokens; t++) {
        for (int k = 0; k < picks; k++) {
            int expert = fb_routing_id(ids, k, t);
            if (expert < 0 || expert >= n_expert) {
                *wrong = expert;
                return false;
            }
            r->rows[expert]++;
            *out++ = expert;
        }
    }
    r->n_expert = n_expert;
    list_needed(r);
    r->routes = (struct fb_routes){
        .experts = r->experts,
        .tokens = tokens,
        .picks = picks,
        .needed = r->needed,
        .uses = r->uses,
        .n_needed = r->n_needed,
    };
    return true;
}
