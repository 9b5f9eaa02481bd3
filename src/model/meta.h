/*
 * meta.h - reads key-values of a GGUF. gguf.h aborts on a key that is missing or of the wrong type;
 * these functions return the fallback.
 */
#ifndef FB_MODEL_META_H
#define FB_MODEL_META_H

#include "forebay.h"

struct gguf_context;

/* A non-negative integer of any type; of an array of integers (per-layer values), the largest. */
uint64_t fb_meta_uint(const struct gguf_context *meta, const char *key, uint64_t fallback);

/* The same for the key "ARCH.NAME", limited to INT32_MAX. */
uint64_t fb_meta_arch_uint(
    const struct gguf_context *meta, const char *arch, const char *name, uint64_t fallback);

/* Copies a string value, truncated to `cap`; "" when there is none. */
void fb_meta_string(const struct gguf_context *meta, const char *key, char *buf, size_t cap);

#endif
