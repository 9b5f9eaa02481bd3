/*
 * offsets.h - where units are in a sidecar, and the types that all parts of sidecar share.
 *
 *      record of an expert [ gate ....... | up ......... | down ....... ] each part begins at a
 *      record of a dense weight [ weight .................................... ] multiple of a block
 */
#ifndef FB_SIDECAR_OFFSETS_H
#define FB_SIDECAR_OFFSETS_H

#include "model/weights.h"

/* The model, processor and llama.cpp that a sidecar is made for, or used with. */
struct fb_sidecar_user {
    const struct fb_catalog *catalog;
    bool repack;
    const char *cpu;   /* fb_cpu_name */
    const char *llama; /* version of llama.cpp */
};

/* The form of a weight. The layout's name alone is not enough (layouts of the same name interleave
 * 4, 8 or 16 rows on different processors), so there is also a probe: the checksum of 64 made-up
 * rows of that type after repacking. */
struct fb_sidecar_form {
    char layout[32]; /* buffer type that repacked it; "": as stored */
    uint64_t probe;  /* 0: as stored */
};

/* A weight in the sidecar: unit u has unit_bytes at offset + u * step, and checksum number
 * first_sum + u * sum_step. */
struct fb_sidecar_weight {
    int tensor; /* index into the catalogue */
    int n_units;
    uint64_t unit_bytes;
    uint64_t offset, step;
    uint64_t first_sum, sum_step;
    struct fb_sidecar_form form;
};

struct fb_sidecar_unit {
    int weight; /* index into the contents' weights */
    int unit;
};

/* The contents of a sidecar. Offsets of weights count from the first record; in contents that were
 * read from a file, from the start of the file. */
struct fb_sidecar_contents {
    int n_weights;
    struct fb_sidecar_weight *weights;
    uint64_t n_units;
    struct fb_sidecar_unit *units; /* in the order of their checksums; NULL if they were read */
    uint64_t data_bytes;           /* of all records */
};

/* Lays out all units; `forms` is by weight. Dense weights in their stored form are left out:
 * reading them from the model is as fast. */
void fb_sidecar_lay_out(const struct fb_weights *weights, const struct fb_sidecar_form *forms,
    struct fb_sidecar_contents *out);
void fb_sidecar_contents_release(struct fb_sidecar_contents *contents);

#endif
