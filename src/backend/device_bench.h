/*
 * device_bench.h - measures how fast a GPU computes and is filled, as compute.h does for the CPU.
 * No model is needed.
 *
 * Every call blocks while it measures. The first use of a kind may compile kernels, which some
 * drivers take minutes for.
 */
#ifndef FB_BACKEND_DEVICE_BENCH_H
#define FB_BACKEND_DEVICE_BENCH_H

#include "forebay.h"
#include "ggml-backend.h"

struct fb_device_bench;

/* At most room_bytes of the device's memory will be used, and about 128 MiB. `batch`: tokens of
 * what counts as many below. NULL when the device cannot be used, or the room is too small to
 * measure anything. */
struct fb_device_bench *fb_device_bench_new(
    ggml_backend_dev_t device, uint64_t room_bytes, int batch);
void fb_device_bench_free(struct fb_device_bench *bench);

/* Rates of products with weights of a type. columns == 0: large matrices; else experts' matrices of
 * that size, `used` per token. *decode: bytes of weights per second for one token; *batch:
 * multiply-adds per second for many tokens, which choose their experts evenly. False when the
 * device does not compute such products, or the room is too small. */
bool fb_device_bench_kind(struct fb_device_bench *bench, int type, int columns, int rows, int used,
    double *decode, double *batch);

/* Bytes per second that are copied to the device. 0: it failed; here and below. */
double fb_device_bench_upload(struct fb_device_bench *bench);

/* Seconds of one operation on a row of activations, among others of a graph, and of one alone with
 * reading its result. */
double fb_device_bench_op(struct fb_device_bench *bench);
double fb_device_bench_turn(struct fb_device_bench *bench);

#endif
