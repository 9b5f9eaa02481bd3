/*
 * format.h - the bytes of a sidecar, for those who write (writer.c) and read (sidecar.c) it.
 *
 * Everything is little-endian. docs/SIDECAR.md is the specification.
 */
#ifndef ST_SIDECAR_FORMAT_H
#define ST_SIDECAR_FORMAT_H

#include "sidecar/sidecar.h"

#define ST_SIDECAR_FORMAT     1
#define ST_SIDECAR_HEAD_BYTES 4096u

struct st_sidecar_head {
    uint64_t file_bytes;
    uint64_t index_bytes; /* from byte 4096 on */
    uint64_t sums_offset; /* a multiple of 4096 */
    uint64_t n_sums;
    uint64_t index_sum;
    uint64_t sums_sum; /* 0: not complete */
};

void st_sidecar_head_pack(const struct st_sidecar_head *head, unsigned char *bytes);
/* Whether a head begins as all do. */
bool st_sidecar_has_magic(const unsigned char *bytes);

/* False, and a reason, when the bytes are no head of this format. */
bool st_sidecar_head_unpack(
    const unsigned char *bytes, struct st_sidecar_head *head, const char **why);

uint64_t st_sidecar_load64(const unsigned char *at);
void st_sidecar_store64(unsigned char *at, uint64_t x);

/* Checksum of a unit; never 0, which stands for a unit that has not been written. */
uint64_t st_sidecar_sum(const void *data, uint64_t bytes);

struct st_sidecar_unit {
    int weight; /* of the layout */
    int unit;
};

/* What is to be in a sidecar, and where. */
struct st_sidecar_layout {
    int n_weights;
    struct st_sidecar_weight *weights;
    uint64_t n_units;
    struct st_sidecar_unit *units; /* in the order of their checksums; NULL in one that was read */
    uint64_t data_bytes; /* of all records; the weights' offsets count from the first one */
};

/* Where everything goes; `forms` is by weight. Dense weights that are kept as stored are left out: they
 * are read from the model just as well. */
void st_sidecar_lay_out(const struct st_weights *weights, const struct st_sidecar_form *forms,
    struct st_sidecar_layout *out);
void st_sidecar_layout_release(struct st_sidecar_layout *layout);

/* Index as text (JSON), to be freed. E_IO when the model cannot be read. */
enum strata_status st_sidecar_index_write(const struct st_sidecar_user *user,
    const struct st_sidecar_layout *layout, char **text, struct strata_error *err);

/* Reads an index, of a sidecar with `head` whose user is `user`. Errors as st_sidecar_open. */
enum strata_status st_sidecar_index_read(const char *path, const char *text,
    const struct st_sidecar_user *user, const struct st_sidecar_head *head,
    struct st_sidecar_layout *out, struct strata_error *err);

/* First byte of the records. */
uint64_t st_sidecar_data_offset(const struct st_sidecar_head *head);

/* What can be checked of a model without reading it all: its headers and some blocks of each file,
 * in one checksum. */
enum strata_status st_sidecar_fingerprint(
    const struct st_catalog *catalog, uint64_t *out, struct strata_error *err);

#endif
