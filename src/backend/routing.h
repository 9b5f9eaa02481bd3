/*
 * routing.h - the experts that a layer's router chose, read once from its tensor of ids.
 *
 *      ids       token 0: [7 99]   token 1: [7 12]
 *      routes    7 99 7 12
 *      rows      2 for expert 7, 1 for 12 and 99, 0 for all others
 *      needed    7 12 99
 *      uses      2 1  1
 *
 * A *row* is one pick of one token: one row of the results of an expert node.
 */
#ifndef FB_BACKEND_ROUTING_H
#define FB_BACKEND_ROUTING_H

#include "stream/stream.h"

struct ggml_tensor;

/* Receives, for each token of a batch in order, the n experts that it uses in a layer (group). May
 * not call back. */
typedef void (*fb_route_fn)(void *user, int group, const int *experts, int n);

/* Zeroed: empty. */
struct fb_routing {
    struct fb_routes routes; /* the expert of each row, token after token */
    int n_expert;
    int *rows; /* [n_expert] rows that use each expert */
    int n_needed;
    int *needed;  /* [n_needed] the distinct experts, by number */
    int *uses;    /* [n_needed] rows of each of them */
    int *experts; /* of routes */
    int cap_rows, cap_expert;
};
void fb_routing_release(struct fb_routing *r);

/* Reads the ids ([picks, tokens], computed already) of a layer with n_expert experts. False when
 * one of them is not the number of an expert; *wrong is then this id. */
bool fb_routing_read(struct fb_routing *r, const struct ggml_tensor *ids, int n_expert, int *wrong);

/* One id of the tensor. */
int fb_routing_id(const struct ggml_tensor *ids, int64_t pick, int64_t token);

#endif
