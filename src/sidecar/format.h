/*
 * format.h - the bytes of a sidecar, for those who write (writer.c) and read (sidecar.c) it.
 *
 * Everything is little-endian. docs/SIDECAR.md is the specification.
 */
#ifndef FB_SIDECAR_FORMAT_H
#define FB_SIDECAR_FORMAT_H

#include "sidecar/sidecar.h"

#define FB_SIDECAR_FORMAT     1
#define FB_SIDECAR_HEAD_BYTES 4096u

struct fb_sidecar_head {
    uint64_t file_bytes;
    uint64_t index_bytes; /* from byte 4096 on */
    uint64_t sums_offset; /* a multiple of 4096 */
    uint64_t n_sums;
    uint64_t index_sum;
    uint64_t sums_sum; /* 0: not complete */
};

void fb_sidecar_head_pack(const struct fb_sidecar_head *head, unsigned char *bytes);
/* Whether a head begins as all do. */
bool fb_sidecar_has_magic(const unsigned char *bytes);

/* False, and a reason, when the bytes are no head of this format. */
bool fb_sidecar_head_unpack(
    const unsigned char *bytes, struct fb_sidecar_head *head, const char **why);

uint64_t fb_sidecar_load64(const unsigned char *at);
void fb_sidecar_store64(unsigned char *at, uint64_t x);

/* Checksum of a unit; never 0, which stands for a unit that has not been written. */
uint64_t fb_sidecar_sum(const void *data, uint64_t bytes);

struct fb_sidecar_unit {
    int weight; /* of the layout */
    int unit;
};

/* What is to be in a sidecar, and where. */
struct fb_sidecar_layout {
    int n_weights;
    struct fb_sidecar_weight *weights;
    uint64_t n_units;
    struct fb_sidecar_unit *units; /* in the order of their checksums; NULL in one that was read */
    uint64_t data_bytes; /* of all records; the weights' offsets count from the first one */
};

/* Where everything goes; `forms` is by weight. Dense weights that are kept as stored are left out: they
 * are read from the model just as well. */
void fb_sidecar_lay_out(const struct fb_weights *weights, const struct fb_sidecar_form *forms,
    struct fb_sidecar_layout *out);
void fb_sidecar_layout_release(struct fb_sidecar_layout *layout);

/* Index as text (JSON), to be freed. E_IO when the model cannot be read. */
enum forebay_status fb_sidecar_index_write(const struct fb_sidecar_user *user,
    const struct fb_sidecar_layout *layout, char **text, struct forebay_error *err);

/* Reads an index, of a sidecar with `head` whose user is `user`. Errors as fb_sidecar_open. */
enum forebay_status fb_sidecar_index_read(const char *path, const char *text,
    const struct fb_sidecar_user *user, const struct fb_sidecar_head *head,
    struct fb_sidecar_layout *out, struct forebay_error *err);

/* First byte of the records. */
uint64_t fb_sidecar_data_offset(const struct fb_sidecar_head *head);

#endif
