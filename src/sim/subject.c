/*
 * subject.c - parses shapes, and builds the catalogue of a model that has only a shape.
 */
#include "sim/subject.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "model/limits.h"
#include "model/trace.h"

#define HINT_SHAPE "A shape is LAYERSxEXPERTS,USED,BYTES, such as 48x128,6,2.6M."
#define MAX_BYTES  ((uint64_t)1 << 40) /* of one expert; keeps all sums far from overflow */

/* --- Shapes ----------------------------------------------------------------------------------- */

struct shape {
    int layers, experts, used;
    uint64_t bytes;
};

/* True when the text can only be meant as a shape: "48x..." */
static bool looks_like_shape(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && text[digits] == 'x' && text[digits + 1] >= '0' &&
           text[digits + 1] <= '9' && strchr(text, ',') && !strchr(text, '/');
}

/* Reads digits and the separator after them. */
static bool parse_number(const char **at, char separator, int *out)
{
    size_t digits = strspn(*at, "0123456789");
    if (digits == 0 || digits > 9 || (*at)[digits] != separator) {
        return false;
    }
    *out = (int)strtol(*at, NULL, 10);
    *at += digits + 1;
    return true;
}

static enum forebay_status parse_shape(
    const char *text, struct shape *shape, struct forebay_error *err)
{
    const char *at = text;
    if (!parse_number(&at, 'x', &shape->layers) || !parse_number(&at, ',', &shape->experts) ||
        !parse_number(&at, ',', &shape->used) || !fb_parse_size(at, &shape->bytes)) {
        return fb_fail(err, FOREBAY_E_USAGE, HINT_SHAPE, "'%s' is not a shape", text);
    }
    if (shape->layers < 1 || shape->layers > FB_MAX_LAYERS || shape->experts < 2 ||
        shape->experts > FB_MAX_EXPERTS) {
        return fb_fail(err, FOREBAY_E_USAGE, HINT_SHAPE,
            "shape '%s': layers must be 1 to %d, experts 2 to %d", text, FB_MAX_LAYERS,
            FB_MAX_EXPERTS);
    }
    if (shape->used < 1 || shape->used > shape->experts) {
        return fb_fail(err, FOREBAY_E_USAGE, HINT_SHAPE, "shape '%s': %d used experts of %d", text,
            shape->used, shape->experts);
    }
    if (shape->bytes == 0 || shape->bytes > MAX_BYTES) {
        return fb_fail(err, FOREBAY_E_USAGE, HINT_SHAPE,
            "shape '%s': the size of an expert must be 1 byte to 1T", text);
    }
    return FOREBAY_OK;
}

/* A catalogue of one tensor per layer, in a file that does not exist. Nothing reads it: the method
 * "sim" uses no descriptor. The file counts as direct, so that reads are cut as for a disk. */
static struct fb_catalog *make_up(const char *text, const struct shape *shape)
{
    struct fb_catalog *c = fb_xcalloc(1, sizeof *c);
    uint64_t layer_bytes = (uint64_t)shape->experts * shape->bytes;
    struct fb_file *file = fb_xcalloc(1, sizeof *file);
    file->path = fb_xstrdup(text);
    file->fd = -1;
    file->alignment = FB_BLOCK_BYTES;
    file->size = fb_round_up((uint64_t)shape->layers * layer_bytes, FB_BLOCK_BYTES);
    c->n_files = 1;
    c->files = fb_xcalloc(1, sizeof *c->files);
    c->files[0] = file;
    c->n_tensors = c->n_layer = shape->layers;
    c->n_expert = shape->experts;
    c->n_expert_used = shape->used;
    c->file_bytes = c->tensor_bytes = file->size;
    c->tensors = fb_xcalloc((size_t)shape->layers, sizeof *c->tensors);
    for (int l = 0; l < shape->layers; l++) {
        c->tensors[l] = (struct fb_tensor){.name = "experts",
            .n_dims = 3,
            .bytes = layer_bytes,
            .role = FB_ROLE_EXPERT_GATE_UP,
            .layer = l,
            .n_expert = shape->experts,
            .expert_bytes = shape->bytes,
            .offset = (uint64_t)l * layer_bytes,
            .matrix = true};
    }
    return c;
}

static void free_made_up(struct fb_catalog *c)
{
    free(c->files[0]->path);
    free(c->files[0]);
    free(c->files);
    free(c->tensors);
    free(c);
}

/* --- Files and shapes ------------------------------------------------------------------------- */

/* The expert weights of `all`, which is freed. */
static struct fb_weights *only_experts(struct fb_weights *all)
{
    struct fb_claim *claims = fb_xcalloc((size_t)all->n_weights, sizeof *claims);
    int n = 0;
    for (int i = 0; i < all->n_weights; i++) {
        const struct fb_weight *w = &all->weights[i];
        if (w->group >= 0) {
            claims[n++] = (struct fb_claim){
                .tensor = w->tensor, .unit_bytes = w->unit_bytes, .transform = w->transformed};
        }
    }
    struct fb_weights *experts = fb_weights_new(all->catalog, claims, n);
    free(claims);
    fb_weights_free(all);
    return experts;
}

enum forebay_status fb_subject_open(const char *model, bool repack, bool experts_only,
    struct fb_subject *out, struct forebay_error *err)
{
    struct fb_subject subject = {.made_up = looks_like_shape(model)};
    struct shape shape;
    enum forebay_status status = subject.made_up
                                     ? parse_shape(model, &shape, err)
                                     : fb_catalog_open(model, true, &subject.catalog, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (subject.made_up) {
        subject.catalog = make_up(model, &shape);
    }
    subject.weights = fb_weights_expected(subject.catalog, repack);
    subject.weights = experts_only ? only_experts(subject.weights) : subject.weights;
    if (subject.weights->n_groups == 0) {
        fb_subject_release(&subject);
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Simulations need a mixture-of-experts model.",
            "%s has no experts, so no routing to simulate", model);
    }
    *out = subject;
    return FOREBAY_OK;
}

void fb_subject_release(struct fb_subject *subject)
{
    fb_weights_free(subject->weights);
    if (subject->made_up && subject->catalog) {
        free_made_up(subject->catalog);
    } else {
        fb_catalog_free(subject->catalog);
    }
    *subject = (struct fb_subject){0};
}

int fb_subject_experts(const struct fb_subject *subject)
{
    int most = 0;
    for (int g = 0; g < subject->weights->n_groups; g++) {
        int n = subject->weights->groups[g].n_expert;
        most = n > most ? n : most;
    }
    return most;
}
