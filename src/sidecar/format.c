/*
 * format.c - packs and checks the head of a sidecar, computes the model's fingerprint, and writes
 * and reads the index. docs/SIDECAR.md is the specification.
 *
 *      head | index | checksums | record | record | ...
 *      0    4096    sums_offset   fb_sidecar_data_offset
 *
 * The index is only read after its checksum has been verified, but it is not trusted: every number
 * is checked against the model and the size of the file.
 */
#include "sidecar/format.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/units.h"

/* --- Head ---------------------------------------------------------------------------------- */

static const unsigned char magic[8] = {'F', 'O', 'R', 'E', 'B', 'A', 'Y', 'S'};

enum {
    AT_FORMAT = 8,
    AT_FILE_BYTES = 16,
    AT_INDEX_BYTES = 24,
    AT_SUMS_OFFSET = 32,
    AT_N_SUMS = 40,
    AT_INDEX_SUM = 48,
    AT_SUMS_SUM = 56,
    AT_HEAD_SUM = FB_SIDECAR_HEAD_BYTES - 8,
};

uint64_t fb_sidecar_load64(const unsigned char *at)
{
    uint64_t x = 0;
    for (int i = 7; i >= 0; i--) {
        x = x << 8 | at[i];
    }
    return x;
}

void fb_sidecar_store64(unsigned char *at, uint64_t x)
{
    for (int i = 0; i < 8; i++) {
        at[i] = (unsigned char)(x >> 8 * i);
    }
}

void fb_sidecar_head_pack(const struct fb_sidecar_head *head, unsigned char *bytes)
{
    memset(bytes, 0, FB_SIDECAR_HEAD_BYTES);
    memcpy(bytes, magic, sizeof magic);
    fb_sidecar_store64(bytes + AT_FORMAT, FB_SIDECAR_FORMAT);
    fb_sidecar_store64(bytes + AT_FILE_BYTES, head->file_bytes);
    fb_sidecar_store64(bytes + AT_INDEX_BYTES, head->index_bytes);
    fb_sidecar_store64(bytes + AT_SUMS_OFFSET, head->sums_offset);
    fb_sidecar_store64(bytes + AT_N_SUMS, head->n_sums);
    fb_sidecar_store64(bytes + AT_INDEX_SUM, head->index_sum);
    fb_sidecar_store64(bytes + AT_SUMS_SUM, head->sums_sum);
    fb_sidecar_store64(bytes + AT_HEAD_SUM, fb_hash64(bytes, AT_HEAD_SUM, 0));
}

uint64_t fb_sidecar_data_offset(const struct fb_sidecar_head *head)
{
    return fb_round_up(head->sums_offset + 8 * head->n_sums, FB_BLOCK_BYTES);
}

bool fb_sidecar_has_magic(const unsigned char *bytes)
{
    return memcmp(bytes, magic, sizeof magic) == 0;
}

bool fb_sidecar_head_unpack(
    const unsigned char *bytes, struct fb_sidecar_head *head, const char **why)
{
    *head = (struct fb_sidecar_head){
        .file_bytes = fb_sidecar_load64(bytes + AT_FILE_BYTES),
        .index_bytes = fb_sidecar_load64(bytes + AT_INDEX_BYTES),
        .sums_offset = fb_sidecar_load64(bytes + AT_SUMS_OFFSET),
        .n_sums = fb_sidecar_load64(bytes + AT_N_SUMS),
        .index_sum = fb_sidecar_load64(bytes + AT_INDEX_SUM),
        .sums_sum = fb_sidecar_load64(bytes + AT_SUMS_SUM),
    };
    *why = !fb_sidecar_has_magic(bytes) ? "it is not a sidecar"
           : fb_sidecar_load64(bytes + AT_FORMAT) != FB_SIDECAR_FORMAT
               ? "it has another format, of another version of Forebay"
           : fb_sidecar_load64(bytes + AT_HEAD_SUM) != fb_hash64(bytes, AT_HEAD_SUM, 0)
               ? "its head is damaged"
               : NULL;
    if (*why) {
        return false;
    }
    /* A valid checksum does not make the numbers valid: nothing below may overflow. */
    if (head->file_bytes > INT64_MAX || head->index_bytes > head->file_bytes ||
        head->sums_offset > head->file_bytes || head->n_sums > head->file_bytes / 8 ||
        head->sums_offset < FB_SIDECAR_HEAD_BYTES + head->index_bytes ||
        head->sums_offset % FB_BLOCK_BYTES || fb_sidecar_data_offset(head) > head->file_bytes) {
        *why = "its head is inconsistent";
    }
    return !*why;
}

uint64_t fb_sidecar_sum(const void *data, uint64_t bytes)
{
    uint64_t sum = fb_hash64(data, bytes, 0);
    return sum ? sum : 1;
}

/* --- Fingerprint of the model
 * --------------------------------------------------------------------------- */

#define SAMPLES    64
#define SAMPLE     FB_BLOCK_BYTES
#define HEADER_MAX (64 * FB_MIB)

/* First byte of tensor data in the file; everything before it is header. */
static uint64_t header_bytes(const struct fb_catalog *c, int file)
{
    uint64_t bytes = c->files[file]->size;
    for (int i = 0; i < c->n_tensors; i++) {
        if (c->tensors[i].file == file) {
            bytes = fb_min(bytes, c->tensors[i].offset);
        }
    }
    return fb_min(bytes, HEADER_MAX);
}

static enum forebay_status mix_range(
    struct fb_file *file, uint64_t from, uint64_t length, uint64_t *hash, struct forebay_error *err)
{
    static unsigned char piece[64 * FB_KIB];
    enum forebay_status status = FOREBAY_OK;
    while (length > 0 && status == FOREBAY_OK) {
        size_t n = (size_t)fb_min(length, sizeof piece);
        status = fb_file_read(file, piece, n, from, err);
        *hash = status == FOREBAY_OK ? fb_hash64(piece, n, *hash) : *hash;
        from += n;
        length -= n;
    }
    return status;
}

enum forebay_status fb_sidecar_fingerprint(
    const struct fb_catalog *c, uint64_t *out, struct forebay_error *err)
{
    uint64_t hash = 0;
    enum forebay_status status = FOREBAY_OK;
    for (int f = 0; f < c->n_files && status == FOREBAY_OK; f++) {
        struct fb_file *file = c->files[f];
        uint64_t header = header_bytes(c, f), rest = file->size - header;
        status = mix_range(file, 0, header, &hash, err);
        for (uint64_t i = 0; i < SAMPLES && rest > 0 && status == FOREBAY_OK; i++) {
            uint64_t at = rest / SAMPLES * i + rest % SAMPLES * i / SAMPLES;
            status = mix_range(file, header + at, fb_min(SAMPLE, rest - at), &hash, err);
        }
    }
    *out = hash;
    return status;
}

static enum forebay_status mix_tensor(const struct fb_catalog *c, const struct fb_tensor *t,
    uint64_t *hash, struct forebay_error *err)
{
    unsigned char sample[SAMPLE];
    uint64_t n = fb_min(t->bytes, sizeof sample), middle = t->offset + (t->bytes - n) / 2;
    *hash = fb_hash64(t->name, strlen(t->name) + 1, *hash);
    *hash = fb_hash64(&t->type, sizeof t->type, *hash);
    enum forebay_status status = fb_file_read(c->files[t->file], sample, n, middle, err);
    if (status == FOREBAY_OK) {
        *hash = fb_hash64(sample, n, *hash);
    }
    return status;
}

enum forebay_status fb_sidecar_mix_tensors(
    const struct fb_catalog *c, uint64_t *hash, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    for (int i = 0; status == FOREBAY_OK && i < c->n_tensors; i++) {
        status = mix_tensor(c, &c->tensors[i], hash, err);
    }
    return status;
}

/* --- Index --------------------------------------------------------------------------------- */

static json_t *hex(uint64_t x)
{
    return json_sprintf("%016" PRIx64, x);
}

static json_t *big(uint64_t x)
{
    return json_integer((json_int_t)x);
}

static json_t *model_json(const struct fb_catalog *c, uint64_t fingerprint, uint64_t samples)
{
    json_t *files = json_array();
    for (int f = 0; f < c->n_files; f++) {
        json_array_append_new(files, json_pack("{s:o, s:o}", "bytes", big(c->files[f]->size),
                                         "modified_ns", big(c->files[f]->identity[2])));
    }
    return json_pack("{s:o, s:i, s:o, s:o}", "files", files, "tensors", c->n_tensors, "fingerprint",
        hex(fingerprint), "samples", hex(samples));
}

static json_t *weight_json(const struct fb_catalog *c, const struct fb_sidecar_weight *w)
{
    return json_pack("{s:s, s:s, s:o, s:i, s:o, s:o, s:o, s:o, s:o}", "tensor",
        c->tensors[w->tensor].name, "layout", w->form.layout, "probe", hex(w->form.probe), "units",
        w->n_units, "unit_bytes", big(w->unit_bytes), "offset", big(w->offset), "step",
        big(w->step), "first_sum", big(w->first_sum), "sum_step", big(w->sum_step));
}

enum forebay_status fb_sidecar_index_write(const struct fb_sidecar_user *user,
    const struct fb_sidecar_contents *contents, char **text, struct forebay_error *err)
{
    uint64_t fingerprint, samples = 0;
    enum forebay_status status = fb_sidecar_fingerprint(user->catalog, &fingerprint, err);
    if (status == FOREBAY_OK) {
        status = fb_sidecar_mix_tensors(user->catalog, &samples, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    json_t *weights = json_array();
    for (int i = 0; i < contents->n_weights; i++) {
        json_array_append_new(weights, weight_json(user->catalog, &contents->weights[i]));
    }
    json_t *root = json_pack("{s:o, s:b, s:s, s:s, s:o}", "model",
        model_json(user->catalog, fingerprint, samples), "repack", user->repack, "cpu", user->cpu,
        "llama.cpp", user->llama, "weights", weights);
    *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    return *text ? FOREBAY_OK
                 : fb_fail(err, FOREBAY_E_FORMAT, "", "a tensor's name is not UTF-8: %s",
                       user->catalog->files[0]->path);
}

/* A non-negative integer. False when it is missing or something else. */
static bool get_number(const json_t *object, const char *key, uint64_t *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t x = json_integer_value(value);
    *out = (uint64_t)x;
    return json_is_integer(value) && x >= 0;
}

static bool same_hex(const json_t *object, const char *key, uint64_t want)
{
    char text[24];
    const char *got = json_string_value(json_object_get(object, key));
    snprintf(text, sizeof text, "%016" PRIx64, want);
    return got && strcmp(got, text) == 0;
}

static bool same_text(const json_t *object, const char *key, const char *want)
{
    const char *got = json_string_value(json_object_get(object, key));
    return got && strcmp(got, want) == 0;
}

static bool same_sizes(const json_t *model, const struct fb_catalog *c)
{
    const json_t *files = json_object_get(model, "files");
    uint64_t bytes, n;
    bool same = json_array_size(files) == (size_t)c->n_files && get_number(model, "tensors", &n) &&
                n == (uint64_t)c->n_tensors;
    for (int f = 0; f < c->n_files && same; f++) {
        same = get_number(json_array_get(files, (size_t)f), "bytes", &bytes) &&
               bytes == c->files[f]->size;
    }
    return same;
}

static bool same_times(const json_t *model, const struct fb_catalog *c)
{
    const json_t *files = json_object_get(model, "files");
    uint64_t ns;
    for (int f = 0; f < c->n_files; f++) {
        if (!get_number(json_array_get(files, (size_t)f), "modified_ns", &ns) ||
            ns != c->files[f]->identity[2]) {
            return false;
        }
    }
    return true;
}

static enum forebay_status refuse(const char *path, const char *why, struct forebay_error *err)
{
    return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Run forebay optimize again.", "%s: %s", path, why);
}

/* A new time of modification is no reason to refuse if no tensor differs. */
static enum forebay_status check_times(
    const char *path, const json_t *model, const struct fb_catalog *c, struct forebay_error *err)
{
    uint64_t samples = 0;
    if (same_times(model, c)) {
        return FOREBAY_OK;
    }
    if (!json_object_get(model, "samples")) { /* written by Forebay before it stored them */
        return refuse(path, "the model has been modified since it was made", err);
    }
    enum forebay_status status = fb_sidecar_mix_tensors(c, &samples, err);
    if (status == FOREBAY_OK && !same_hex(model, "samples", samples)) {
        status = refuse(path, "the content of the model has changed since it was made", err);
    }
    return status;
}

static enum forebay_status check_user(const char *path, const json_t *root,
    const struct fb_sidecar_user *user, struct forebay_error *err)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *repack = json_object_get(root, "repack");
    uint64_t fingerprint;
    if (!same_sizes(model, user->catalog)) {
        return refuse(path, "it was made from another model", err);
    }
    if (!json_is_boolean(repack) || json_is_true(repack) != user->repack) {
        return refuse(path,
            user->repack ? "it was made with --no-repack" : "it was made without --no-repack", err);
    }
    if (!same_text(root, "cpu", user->cpu)) {
        return refuse(path, "it was made for another processor", err);
    }
    if (!same_text(root, "llama.cpp", user->llama)) {
        return refuse(path, "it was made with another version of llama.cpp", err);
    }
    enum forebay_status status = fb_sidecar_fingerprint(user->catalog, &fingerprint, err);
    if (status == FOREBAY_OK && !same_hex(model, "fingerprint", fingerprint)) {
        return refuse(path, "the content of the model has changed since it was made", err);
    }
    return status == FOREBAY_OK ? check_times(path, model, user->catalog, err) : status;
}

/* Reads one weight, and checks everything against the model and the size of the file. */
static bool read_weight(const json_t *object, const struct fb_catalog *c,
    const struct fb_sidecar_head *head, struct fb_sidecar_weight *w)
{
    const char *name = json_string_value(json_object_get(object, "tensor"));
    const char *layout = json_string_value(json_object_get(object, "layout"));
    const char *probe = json_string_value(json_object_get(object, "probe"));
    uint64_t units, room = head->file_bytes - fb_sidecar_data_offset(head);
    *w = (struct fb_sidecar_weight){.tensor = name ? fb_catalog_find(c, name) : -1};
    if (w->tensor < 0 || !layout || strlen(layout) >= sizeof w->form.layout || !probe ||
        sscanf(probe, "%16" SCNx64, &w->form.probe) != 1 || !get_number(object, "units", &units) ||
        !get_number(object, "unit_bytes", &w->unit_bytes) ||
        !get_number(object, "offset", &w->offset) || !get_number(object, "step", &w->step) ||
        !get_number(object, "first_sum", &w->first_sum) ||
        !get_number(object, "sum_step", &w->sum_step)) {
        return false;
    }
    snprintf(w->form.layout, sizeof w->form.layout, "%s", layout);
    const struct fb_tensor *t = &c->tensors[w->tensor];
    if (units != (fb_weights_is_expert(t) ? (uint64_t)t->n_expert : 1)) {
        return false;
    }
    w->n_units = (int)units;
    uint64_t last = units - 1;
    if (w->unit_bytes == 0 || w->unit_bytes > w->step || w->offset > room || w->step > room ||
        w->offset % FB_BLOCK_BYTES || w->step % FB_BLOCK_BYTES ||
        last > (room - w->offset) / w->step || last * w->step + w->unit_bytes > room - w->offset ||
        w->first_sum >= head->n_sums || w->sum_step == 0 || w->sum_step > head->n_sums ||
        last > (head->n_sums - 1 - w->first_sum) / w->sum_step) {
        return false;
    }
    w->offset += fb_sidecar_data_offset(head);
    return true;
}

static int by_tensor(const void *a, const void *b)
{
    const struct fb_sidecar_weight *x = a, *y = b;
    return (x->tensor > y->tensor) - (x->tensor < y->tensor);
}

static bool read_weights(const json_t *list, const struct fb_catalog *c,
    const struct fb_sidecar_head *head, struct fb_sidecar_contents *out)
{
    size_t n = json_array_size(list);
    bool good = n > 0 && n <= (size_t)c->n_tensors;
    out->weights = fb_xcalloc(good ? n : 1, sizeof *out->weights);
    for (size_t i = 0; i < n && good; i++) {
        good = read_weight(json_array_get(list, i), c, head, &out->weights[i]);
        out->n_weights++;
    }
    qsort(out->weights, (size_t)out->n_weights, sizeof *out->weights, by_tensor);
    for (int i = 1; i < out->n_weights && good; i++) {
        good = out->weights[i].tensor != out->weights[i - 1].tensor;
    }
    return good;
}

enum forebay_status fb_sidecar_index_read(const char *path, const char *text,
    const struct fb_sidecar_user *user, const struct fb_sidecar_head *head,
    struct fb_sidecar_contents *out, struct forebay_error *err)
{
    json_t *root = json_loads(text, 0, NULL);
    *out = (struct fb_sidecar_contents){.n_units = head->n_sums};
    enum forebay_status status = root ? check_user(path, root, user, err) : FOREBAY_OK;
    if (status == FOREBAY_OK &&
        !read_weights(json_object_get(root, "weights"), user->catalog, head, out)) {
        status = fb_fail(err, FOREBAY_E_FORMAT, "Run forebay optimize again.",
            "%s: its index is inconsistent", path);
    }
    json_decref(root);
    if (status != FOREBAY_OK) {
        fb_sidecar_contents_release(out);
    }
    return status;
}
