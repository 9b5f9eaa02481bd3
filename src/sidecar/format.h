/*
 * format.h - head and index of a sidecar as bytes, for writer.c and sidecar.c.
 *
 * Everything is little-endian. docs/SIDECAR.md is the specification.
 */
#ifndef FB_SIDECAR_FORMAT_H
#define FB_SIDECAR_FORMAT_H

#include "sidecar/offsets.h"

#define FB_SIDECAR_FORMAT     1 /* version */
#define FB_SIDECAR_HEAD_BYTES FB_BLOCK_BYTES

struct fb_sidecar_head {
    uint64_t file_bytes;
    uint64_t index_bytes; /* from byte 4096 on */
    uint64_t sums_offset; /* a multiple of 4096 */
    uint64_t n_sums;
    uint64_t index_sum;
    uint64_t sums_sum; /* 0: incomplete */
};

void fb_sidecar_head_pack(const struct fb_sidecar_head *head, unsigned char *bytes);
/* Whether the bytes begin with the magic number of a sidecar. */
bool fb_sidecar_has_magic(const unsigned char *bytes);

/* False, with the reason in *why, when the bytes are not a valid head of this format. */
bool fb_sidecar_head_unpack(
    const unsigned char *bytes, struct fb_sidecar_head *head, const char **why);

uint64_t fb_sidecar_load64(const unsigned char *at);
void fb_sidecar_store64(unsigned char *at, uint64_t x);

/* Checksum of a unit. Never 0, which marks a unit that has not been written. */
uint64_t fb_sidecar_sum(const void *data, uint64_t bytes);

/* The index as text (JSON), which the caller frees. E_IO when the model cannot be read. */
enum forebay_status fb_sidecar_index_write(const struct fb_sidecar_user *user,
    const struct fb_sidecar_contents *contents, char **text, struct forebay_error *err);

/* Parses the index of a sidecar with `head`, for `user`; offsets in *out count from the start of
 * the file. Errors as fb_sidecar_open. */
enum forebay_status fb_sidecar_index_read(const char *path, const char *text,
    const struct fb_sidecar_user *user, const struct fb_sidecar_head *head,
    struct fb_sidecar_contents *out, struct forebay_error *err);

/* Offset of the first record. */
uint64_t fb_sidecar_data_offset(const struct fb_sidecar_head *head);

/* One checksum over parts of the model: its headers and some blocks of each file. E_IO. */
enum forebay_status fb_sidecar_fingerprint(
    const struct fb_catalog *catalog, uint64_t *out, struct forebay_error *err);

/* Adds a sample of each tensor, with its name and type, to the hash. Models of one architecture
 * differ in nothing else: fine-tunes have the same header, and may change few tensors. E_IO. */
enum forebay_status fb_sidecar_mix_tensors(
    const struct fb_catalog *catalog, uint64_t *hash, struct forebay_error *err);

#endif
