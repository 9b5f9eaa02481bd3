/*
 * partition.h - which operations compute the same bits with any number of threads.
 *
 * Most of ggml's operations give each thread whole rows of the result, or columns of a product, and
 * compute each value in the same order whatever the number. A few divide a sum. Those must be
 * computed with the number of threads that results are promised for, however many compute the rest
 * (T3). tests/test_partition.c compares both kinds with ggml itself.
 */
#ifndef FB_BACKEND_PARTITION_H
#define FB_BACKEND_PARTITION_H

#include <stdbool.h>

#include "ggml.h"

/* True when the node's result may depend on how many threads, up to `n_threads`, compute it.
 * `pairs`: the CPU multiplies rows in pairs where it can (ggml's feature MATMUL_INT8). */
bool fb_partition_matters(const struct ggml_tensor *node, int n_threads, bool pairs);

#endif
