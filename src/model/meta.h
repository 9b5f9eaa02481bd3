/*
 * meta.h - reads key-values of a GGUF without gguf.h's aborts: a key that is missing or of the
 * wrong type gives the fallback.
 */
#ifndef FB_MODEL_META_H
#define FB_MODEL_META_H

#include "forebay.h"

struct gguf_context;

/* Any integer type, not negative; of an array of integers the largest (per-layer values). */
uint64_t fb_meta_uint(const struct gguf_context *meta, const char *key, uint64_t fallback);

/* The same for the key "ARCH.NAME", limited to INT32_MAX. */
uint64_t fb_meta_arch_uint(
    const struct gguf_context *meta, const char *arch, const char *name, uint64_t fallback);

/* Copies a string value, cut to `cap`; "" when there is none. */
void fb_meta_string(const struct gguf_context *meta, const char *key, char *buf, size_t cap);

#endif
