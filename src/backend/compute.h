/*
 * compute.h - measures how fast the CPU backend computes on this machine: matrices of a type, in
 * the layout that a model's weights would be held in. No model is needed.
 *
 * Every call blocks while it measures. Not to be called while a graph is computed: each would slow
 * the other down.
 */
#ifndef FB_BACKEND_COMPUTE_H
#define FB_BACKEND_COMPUTE_H

#include "forebay.h"

struct fb_bench;

/* Threads and memory for the calls below: about 260 MiB, or `room_bytes` if that is less; weights
 * that caches hold are then measured too fast. NULL when there is no CPU backend, or too little
 * room. */
struct fb_bench *fb_bench_new(int n_threads, uint64_t room_bytes);
void fb_bench_free(struct fb_bench *bench);

/* At most so many of the threads compute from now on, as in a run beside other programs. */
void fb_bench_limit(struct fb_bench *bench, int n_threads);

struct fb_bench_rate {
    bool repacked;  /* repacking was asked for, and the CPU has a layout for the type */
    double decode;  /* bytes of weights per second, for one token */
    double batch;   /* multiply-adds per second, for many tokens */
    double experts; /* the same where each token has its own choice of experts */
    double unpack;  /* bytes per second repacked; 0: not repacked */
};

/* Measures one type (an enum ggml_type) for about `seconds`. False when the CPU backend cannot
 * compute with it. */
bool fb_bench_type(
    struct fb_bench *bench, int type, bool repack, double seconds, struct fb_bench_rate *out);

/* The same for experts that are matrices of this size, of which a token uses `used`: only `decode`,
 * with no expert in a cache, and `experts`. */
bool fb_bench_expert(struct fb_bench *bench, int type, bool repack, int columns, int rows, int used,
    double seconds, struct fb_bench_rate *out);

/* Bytes per second that all threads together read from memory. */
double fb_bench_memory(struct fb_bench *bench, double seconds);

/* Seconds per operation on one row of activations. */
double fb_bench_op(struct fb_bench *bench);

/* Multiply-adds per second of attention, for a pass of so many tokens (at most 64). */
double fb_bench_attention(struct fb_bench *bench, int tokens);

#endif
