/*
 * compute.h - how fast the CPU backend computes here, by doing it: small tensors of a type, in the
 * layout a model's weights would be kept in. No model is needed. Not while a graph is computed.
 */
#ifndef FB_BACKEND_COMPUTE_H
#define FB_BACKEND_COMPUTE_H

#include "forebay.h"

struct fb_bench;

/* Threads and memory for the calls below: some 260 MiB, or `room_bytes` if that is less; what caches
 * hold is then measured too fast. NULL when there is no CPU backend, or too little room. */
struct fb_bench *fb_bench_new(int n_threads, uint64_t room_bytes);
void fb_bench_free(struct fb_bench *bench);

struct fb_bench_rate {
    bool repacked;  /* the CPU has a layout of its own for the type, and it was asked for */
    double decode;  /* bytes of weights per second, for one token */
    double batch;   /* multiply-adds per second, for many tokens */
    double experts; /* the same where each token has experts of its own choice */
    double arrive;  /* bytes per second repacked; 0: not repacked */
};

/* Measures one type (an enum ggml_type) for about `seconds`. False when it cannot be computed with. */
bool fb_bench_type(
    struct fb_bench *bench, int type, bool repack, double seconds, struct fb_bench_rate *out);

/* The same for experts that are matrices of this size, of which a token uses so many: only `decode`,
 * where none of them is in a cache, and `experts`. */
bool fb_bench_expert(struct fb_bench *bench, int type, bool repack, int columns, int rows, int used,
    double seconds, struct fb_bench_rate *out);

/* Bytes per second that all threads read from memory together. */
double fb_bench_memory(struct fb_bench *bench, double seconds);

/* Seconds that an operation on one row of activations takes. */
double fb_bench_op(struct fb_bench *bench);

/* Multiply-adds per second of the attention of so many tokens (at most 64) to those before them. */
double fb_bench_attention(struct fb_bench *bench, int tokens);

#endif
