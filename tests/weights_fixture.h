/*
 * weights_fixture.h - hand-made models: a catalogue of tensors that lie one after another, and the
 * weights that claim them all. A model with bytes is cut from the file of io_fixture.h, so the
 * oracle of every read is `contents`.
 *
 * The computed form of a transformed weight is invented: every byte of the file, followed by its
 * complement.
 */
#ifndef FOREBAY_TESTS_WEIGHTS_FIXTURE_H
#define FOREBAY_TESTS_WEIGHTS_FIXTURE_H

#include "io_fixture.h"

#include "model/weights.h"
#include "stream/stream.h"

#define MAX_TENSORS 128

struct model {
    struct fb_catalog catalog;
    struct fb_tensor tensors[MAX_TENSORS];
    struct fb_claim claims[MAX_TENSORS]; /* of the tensor with the same index */
    struct fb_file *file;
    char path[256];
    uint64_t end; /* of the last tensor */
    struct fb_weights *weights;
};

static inline uint64_t rnd_below(uint64_t n)
{
    return rnd() % n;
}

static inline void model_init(struct model *m, uint64_t first_offset)
{
    *m = (struct model){.end = first_offset};
    m->catalog.tensors = m->tensors;
    m->catalog.files = &m->file;
    m->catalog.n_files = 1;
}

/* Adds a tensor of n_expert (0: not stacked) times `unit_bytes`. Returns its index. */
static inline int add_weight(struct model *m, enum fb_role role, int layer, int n_expert,
    uint64_t unit_bytes, bool transform)
{
    int i = m->catalog.n_tensors++;
    assert_true(i < MAX_TENSORS);
    struct fb_tensor *t = &m->tensors[i];
    *t = (struct fb_tensor){.role = role, .layer = layer, .offset = m->end, .matrix = true};
    t->n_expert = n_expert;
    t->expert_bytes = n_expert ? unit_bytes : 0;
    t->bytes = unit_bytes * (uint64_t)(n_expert ? n_expert : 1);
    m->end += t->bytes;
    m->claims[i].tensor = i;
    m->claims[i].unit_bytes = transform ? 2 * unit_bytes : unit_bytes;
    m->claims[i].transform = transform;
    return i;
}

static inline int add_dense(struct model *m, uint64_t bytes, bool transform)
{
    return add_weight(m, FB_ROLE_ATTENTION, -1, 0, bytes, transform);
}

static inline void claim_all(struct model *m)
{
    m->weights = fb_weights_new(&m->catalog, m->claims, m->catalog.n_tensors);
}

/* Claims all, and gives the model its file. */
static inline void model_open(struct model *m)
{
    assert_true(m->end <= FILE_BYTES);
    m->file = make_file(disk_dir(), true, m->path, sizeof m->path);
    claim_all(m);
}

static inline void model_close(struct model *m)
{
    fb_weights_free(m->weights);
    if (m->file) {
        unlink(m->path);
        fb_file_close(m->file);
    }
}

/* --- Made-up models --------------------------------------------------------------------------- */

/* 1 byte .. 2^max_bits, small ones as likely as large ones. */
static inline uint64_t random_bytes(int max_bits)
{
    uint64_t top = (uint64_t)1 << rnd_below((uint64_t)max_bits + 1);
    return top - rnd_below(top / 2 + 1);
}

/* Three parts: one is repacked; the others are read in place if their size is whole blocks, or
 * copied. */
static inline void add_expert_layer(
    struct model *m, int layer, int n_expert, const uint64_t sizes[3])
{
    static const enum fb_role roles[] = {
        FB_ROLE_EXPERT_GATE, FB_ROLE_EXPERT_UP, FB_ROLE_EXPERT_DOWN};
    for (int p = 0; p < 3; p++) {
        add_weight(m, roles[p], layer, n_expert, sizes[p], (layer + p) % 3 == 2);
    }
}

static inline void add_random_layer(struct model *m, int layer, int n_expert, int max_bits)
{
    static const enum fb_role roles[] = {
        FB_ROLE_EXPERT_GATE, FB_ROLE_EXPERT_UP, FB_ROLE_EXPERT_DOWN};
    for (int p = 0; p < 3; p++) {
        uint64_t bytes = random_bytes(max_bits);
        bytes = rnd() % 2 ? fb_round_up(bytes, 4096) : bytes; /* read in place, or copied */
        add_weight(m, roles[p], layer, n_expert, bytes, rnd() % 5 == 0);
    }
}

/* Dense, mixture of experts or both; layers alike or each of its own size. */
static inline void random_model(struct model *m, uint64_t seed, int max_bits)
{
    static const int counts[] = {2, 3, 8, 16, 128};
    random_state = seed;
    model_init(m, rnd_below(10000));
    m->catalog.n_expert_used = (int)rnd_below(9);
    int n_dense = rnd() % 4 ? (int)rnd_below(40) : 0;
    for (int i = 0; i < n_dense; i++) {
        enum fb_role role = rnd() % 12 ? FB_ROLE_ATTENTION : FB_ROLE_OUTPUT;
        add_weight(m, role, i, 0, random_bytes(max_bits), rnd() % 3 == 0);
    }
    int n_layers = rnd() % 4 || !n_dense ? 1 + (int)rnd_below(20) : 0;
    int n_expert = counts[rnd_below(5)];
    bool alike = rnd() % 2;
    for (int l = 0; l < n_layers; l++) {
        uint64_t before = random_state;
        if (alike) {
            random_state = seed;
        }
        add_random_layer(m, l, alike ? n_expert : counts[rnd_below(5)], max_bits);
        if (alike) {
            random_state = before;
        }
    }
    claim_all(m);
}

/* --- Expected bytes --------------------------------------------------------------------------- */

/* fb_unpack_fn: makes the computed form. `user` points at a model's weights. */
static inline void unpack_units(void *user, const struct fb_unpack *units, int n)
{
    const struct fb_weights *ws = *(struct fb_weights **)user;
    for (int i = 0; i < n; i++) {
        const struct fb_weight *w = &ws->weights[units[i].weight];
        const unsigned char *raw = units[i].raw;
        unsigned char *dest = units[i].dest;
        for (uint64_t k = 0; k < w->file_bytes; k++) {
            if (w->unpack == FB_UNPACK_REPACK) {
                dest[2 * k] = raw[k];
                dest[2 * k + 1] = (unsigned char)~raw[k];
            } else {
                dest[k] = raw[k];
            }
        }
    }
}

/* True when `got` is the computed form of the unit. */
static inline bool form_is_right(const struct model *m, int weight, int expert, const void *got)
{
    const struct fb_weight *w = &m->weights->weights[weight];
    const struct fb_tensor *t = &m->tensors[w->tensor];
    const unsigned char *file = contents + t->offset + (uint64_t)expert * w->file_bytes;
    const unsigned char *form = got;
    if (w->unpack != FB_UNPACK_REPACK) {
        return memcmp(form, file, w->file_bytes) == 0;
    }
    for (uint64_t k = 0; k < w->file_bytes; k++) {
        if (form[2 * k] != file[k] || (form[2 * k + 1] ^ file[k]) != 0xff) {
            return false;
        }
    }
    return true;
}

/* Room for any of the model's units as it is read. */
static inline uint64_t largest_unit(const struct model *m)
{
    uint64_t largest = 0;
    for (int i = 0; i < m->weights->n_weights; i++) {
        largest = fb_max(largest, fb_weight_envelope(m->weights, i));
    }
    return largest;
}

static inline void small_io_options(struct fb_io_options *options, const char *method)
{
    fb_io_options_init(options);
    options->method = method;
    options->chunk_bytes = CHUNK_BYTES;
    options->queue_depth = 4;
}

static inline struct fb_io_engine *open_small_engine(const char *method)
{
    struct fb_io_options options;
    struct fb_io_engine *io;
    struct forebay_error err;
    small_io_options(&options, method);
    if (fb_io_open(&options, &io, &err)) {
        fail_msg("%s: %s", method, err.message);
    }
    return io;
}

#endif
