/*
 * test_sidecar.c - the format of sidecars, written and read without llama.cpp: every unit is at its
 * offset and valid; a file that is damaged, of another model or forged is refused; a writer that is
 * stopped anywhere can be continued.
 */
#include "sidecar_fixture.h"

#include "base/error.h"
#include "base/hash.h"
#include "os/output.h"
#include "sidecar/format.h"
#include "sidecar/sidecar.h"
#include "sidecar/writer.h"

static const struct kind small = {"qwen3moe", "Q4_K", 4, 256, false};

struct fixture {
    struct fb_catalog *catalog;
    struct fb_weights *weights;
    struct fb_sidecar_form *forms;
    struct fb_sidecar_contents layout;
    struct fb_sidecar_user user;
    char path[PATH_MAX];
};

/* As if the CPU repacked all quantised weights. */
static void open_fixture(struct fixture *f, const char *name)
{
    char model[PATH_MAX];
    struct forebay_error err;
    *f = (struct fixture){0};
    snprintf(model, sizeof model, "%s", temp_path(name));
    make_kind(model, &small, 7);
    assert_int_equal(fb_catalog_open(model, false, &f->catalog, &err), FOREBAY_OK);
    f->weights = fb_weights_expected(f->catalog, true);
    f->forms = calloc((size_t)f->weights->n_weights, sizeof *f->forms);
    for (int i = 0; i < f->weights->n_weights; i++) {
        if (f->weights->weights[i].transformed) {
            f->forms[i] = (struct fb_sidecar_form){"MADE_UP", 0x1234 + (uint64_t)i};
        }
    }
    fb_sidecar_lay_out(f->weights, f->forms, &f->layout);
    f->user = (struct fb_sidecar_user){f->catalog, true, "a CPU: flags", "1.2"};
    assert_true(fb_sidecar_path(f->catalog, false, f->path, sizeof f->path));
}

static void close_fixture(struct fixture *f)
{
    fb_sidecar_contents_release(&f->layout);
    free(f->forms);
    fb_weights_free(f->weights);
    fb_catalog_free(f->catalog);
}

/* The contents of unit `number`. */
static unsigned char *unit_bytes(const struct fixture *f, uint64_t number)
{
    uint64_t n = f->layout.weights[f->layout.units[number].weight].unit_bytes;
    unsigned char *bytes = malloc(n);
    for (uint64_t i = 0; i < n; i++) {
        bytes[i] = (unsigned char)(i * 31 + number * 17 + (i >> 8));
    }
    return bytes;
}

static enum forebay_status put_next(
    const struct fixture *f, struct fb_sidecar_writer *w, struct forebay_error *err)
{
    unsigned char *bytes = unit_bytes(f, fb_sidecar_writer_next(w));
    enum forebay_status status = fb_sidecar_writer_put(w, bytes, err);
    free(bytes);
    return status;
}

/* Continues until `stop` units are written, and completes the file if these are all. Returns the
 * number of the unit at which it began. */
static uint64_t write_until(const struct fixture *f, const char *path, uint64_t stop)
{
    struct fb_sidecar_writer *w;
    struct forebay_error err;
    if (fb_sidecar_writer_new(path, &f->user, &f->layout, &w, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    uint64_t begin = fb_sidecar_writer_next(w);
    while (fb_sidecar_writer_next(w) < stop) {
        assert_int_equal(put_next(f, w, &err), FOREBAY_OK);
    }
    if (fb_sidecar_writer_next(w) == f->layout.n_units) {
        assert_int_equal(fb_sidecar_writer_finish(w, &err), FOREBAY_OK);
    }
    fb_sidecar_writer_free(w);
    return begin;
}

static enum forebay_status try_open(const struct fixture *f, struct forebay_error *err)
{
    struct fb_sidecar *s;
    enum forebay_status status = fb_sidecar_open(f->path, &f->user, &s, err);
    if (status == FOREBAY_OK) {
        fb_sidecar_close(s);
    }
    return status;
}

/* --- Valid --------------------------------------------------------------------------------- */

/* Test vectors of the reference implementation. */
static void test_hash(void **state)
{
    (void)state;
    assert_true(fb_hash64("", 0, 0) == 0xEF46DB3751D8E999u);
    assert_true(fb_hash64("a", 1, 0) == 0xD24EC4F1A98C6E5Bu);
    assert_true(fb_hash64("abc", 3, 0) == 0x44BC2CF5AD770999u);
    /* Every length, because each takes its own path through the tail; every bit matters. */
    unsigned char bytes[100] = {0};
    for (size_t n = 1; n <= sizeof bytes; n++) {
        uint64_t before = fb_hash64(bytes, n, 5);
        assert_true(before != fb_hash64(bytes, n - 1, 5));
        for (size_t bit = 0; bit < 8 * n; bit += 7) {
            bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
            assert_true(fb_hash64(bytes, n, 5) != before);
            bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
    }
}

static void test_layout(void **state)
{
    struct fixture f;
    (void)state;
    open_fixture(&f, "layout.gguf");
    uint64_t end = 0;
    for (uint64_t u = 0; u < f.layout.n_units; u++) { /* units are in the order of their offsets */
        const struct fb_sidecar_unit *unit = &f.layout.units[u];
        const struct fb_sidecar_weight *w = &f.layout.weights[unit->weight];
        uint64_t at = w->offset + (uint64_t)unit->unit * w->step;
        assert_true(at >= end && at % 4096 == 0 && at - end < 4096);
        assert_int_equal(w->first_sum + (uint64_t)unit->unit * w->sum_step, u);
        end = at + w->unit_bytes;
    }
    assert_true(f.layout.data_bytes >= end && f.layout.data_bytes - end < 4096);
    /* The parts of an expert are contiguous. */
    const struct fb_group *g = &f.weights->groups[1];
    assert_int_equal(g->n_parts, 3);
    for (int i = 0; i < f.layout.n_weights; i++) {
        const struct fb_sidecar_weight *w = &f.layout.weights[i];
        if (w->tensor == f.weights->weights[g->weight[0]].tensor) {
            uint64_t part = fb_round_up(w->unit_bytes, 4096);
            assert_int_equal(w[1].offset, w->offset + part);
            assert_int_equal(w->n_units, g->n_expert);
        }
    }
    close_fixture(&f);
}

static void test_every_unit_is_there(void **state)
{
    struct fixture f;
    struct fb_sidecar *s;
    struct forebay_error err;
    (void)state;
    open_fixture(&f, "whole.gguf");
    assert_int_equal(write_until(&f, f.path, f.layout.n_units), 0);
    assert_int_equal(fb_sidecar_open(f.path, &f.user, &s, &err), FOREBAY_OK);
    assert_int_equal(fb_sidecar_n_weights(s), f.layout.n_weights);
    for (uint64_t u = 0; u < f.layout.n_units; u++) {
        const struct fb_sidecar_unit *unit = &f.layout.units[u];
        const struct fb_sidecar_weight *w =
            fb_sidecar_find(s, f.layout.weights[unit->weight].tensor);
        unsigned char *want = unit_bytes(&f, u), *got = malloc(w->unit_bytes);
        assert_string_equal(w->form.layout, f.layout.weights[unit->weight].form.layout);
        assert_true(w->form.probe == f.layout.weights[unit->weight].form.probe);
        assert_int_equal(fb_file_read(fb_sidecar_file(s), got, w->unit_bytes,
                             w->offset + (uint64_t)unit->unit * w->step, &err),
            FOREBAY_OK);
        assert_memory_equal(got, want, w->unit_bytes);
        got[u % w->unit_bytes] ^= 1;
        assert_false(fb_sidecar_verify(s, w, unit->unit, got));
        assert_true(fb_sidecar_verify(s, w, unit->unit, want));
        free(want);
        free(got);
    }
    assert_null(fb_sidecar_find(s, -1));
    assert_null(fb_sidecar_find(s, f.catalog->n_tensors));
    fb_sidecar_close(s);
    close_fixture(&f);
}

/* --- Interrupted
 * ------------------------------------------------------------------------------- */

/* A writer may stop after any unit, before its checksum has been written. */
static void test_continues(void **state)
{
    struct fixture f;
    (void)state;
    open_fixture(&f, "stopped.gguf");
    write_until(&f, f.path, f.layout.n_units);
    fb_sidecar_checkpoint_bytes = 100000;
    const char *path = temp_path("again.forebay"), *partial = temp_path("again.forebay.partial");
    uint64_t begun = 0;
    for (uint64_t stop = 0; stop <= f.layout.n_units; stop++) {
        uint64_t begin = write_until(&f, path, stop);
        assert_true(begin >= begun && begin <= stop);
        begun = begin;
        assert_true(stop == f.layout.n_units || !fb_path_exists(path));
    }
    assert_true(begun > f.layout.n_units / 2); /* it was continued, not restarted */
    assert_false(fb_path_exists(partial));
    assert_true(same_files(f.path, path));

    /* Killed after the head was marked complete, before the rename. */
    assert_int_equal(rename(path, partial), 0);
    assert_int_equal(write_until(&f, path, f.layout.n_units), f.layout.n_units);
    assert_true(same_files(f.path, path));
    close_fixture(&f);
}

/* Another file with the name of the partial file is left alone, unless it is empty. */
static void test_spares_other_files(void **state)
{
    struct fixture f;
    struct fb_sidecar_writer *w;
    struct forebay_error err;
    char text[8] = "";
    (void)state;
    open_fixture(&f, "spared.gguf");
    const char *path = temp_path("spared.forebay"), *partial = temp_path("spared.forebay.partial");
    FILE *file = fopen(partial, "w");
    assert_int_equal(fputs("mine\n", file), 1);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(fb_sidecar_writer_new(path, &f.user, &f.layout, &w, &err), FOREBAY_E_USAGE);
    assert_non_null(strstr(err.message, partial));
    file = fopen(partial, "r");
    assert_non_null(fgets(text, sizeof text, file));
    assert_int_equal(fclose(file), 0);
    assert_string_equal(text, "mine\n");
    assert_int_equal(truncate(partial, 0), 0);
    assert_int_equal(write_until(&f, path, f.layout.n_units), 0);
    close_fixture(&f);
}

/* The partial file of another sidecar is overwritten. */
static void test_restarts(void **state)
{
    struct fixture f;
    (void)state;
    open_fixture(&f, "anew.gguf");
    write_until(&f, f.path, f.layout.n_units);
    fb_sidecar_checkpoint_bytes = 100000;
    const char *path = temp_path("anew.forebay"), *partial = temp_path("anew.forebay.partial");
    static const uint64_t places[] = {8, 9, 17, 60, 4095, 4096, 4200, 5000};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        write_until(&f, path, f.layout.n_units - 1);
        flip(partial, places[i], 0x20);
        assert_int_equal(write_until(&f, path, f.layout.n_units), 0);
        assert_true(same_files(f.path, path));
        assert_int_equal(remove(path), 0);
    }
    write_until(&f, path, f.layout.n_units - 1);
    assert_int_equal(truncate(partial, (off_t)size_of(partial) / 2), 0);
    assert_int_equal(write_until(&f, path, f.layout.n_units), 0);
    assert_true(same_files(f.path, path));
    assert_int_equal(remove(path), 0);
    write_until(&f, path, f.layout.n_units - 1);
    f.user.cpu = "another CPU";
    assert_int_equal(write_until(&f, path, f.layout.n_units), 0);
    close_fixture(&f);
}

static void test_one_writer(void **state)
{
    struct fixture f;
    struct fb_sidecar_writer *w, *other;
    struct forebay_error err;
    (void)state;
    open_fixture(&f, "locked.gguf");
    assert_int_equal(fb_sidecar_writer_new(f.path, &f.user, &f.layout, &w, &err), FOREBAY_OK);
    assert_int_equal(
        fb_sidecar_writer_new(f.path, &f.user, &f.layout, &other, &err), FOREBAY_E_USAGE);
    assert_non_null(strstr(err.message, "another process"));
    fb_sidecar_writer_free(w);
    close_fixture(&f);
}

static void test_no_room(void **state)
{
    struct fixture f;
    struct fb_sidecar_writer *w;
    struct forebay_error err;
    (void)state;
    open_fixture(&f, "room.gguf");
    f.layout.data_bytes = (uint64_t)1 << 60;
    assert_int_equal(fb_sidecar_writer_new(f.path, &f.user, &f.layout, &w, &err), FOREBAY_E_NOFIT);
    assert_non_null(strstr(err.message, "EiB"));
    assert_true(err.hint[0]);
    assert_false(fb_path_exists(f.path));
    close_fixture(&f);
}

/* --- Refused --------------------------------------------------------------------------------- */

static void expect(const struct fixture *f, enum forebay_status status, const char *text)
{
    struct forebay_error err = {0};
    enum forebay_status got = try_open(f, &err);
    if (got != status || !strstr(err.message, text) || !strstr(err.message, f->path)) {
        fail_msg("wanted %s \"%s\", got %s \"%s\"", forebay_status_name(status), text,
            forebay_status_name(got), err.message);
    }
}

static void test_foreign(void **state)
{
    struct fixture f;
    (void)state;
    open_fixture(&f, "foreign.gguf");
    expect(&f, FOREBAY_E_IO, "cannot open");
    write_until(&f, f.path, f.layout.n_units);
    assert_int_equal(try_open(&f, NULL), FOREBAY_OK);
    f.user.repack = false;
    expect(&f, FOREBAY_E_UNSUPPORTED, "--no-repack");
    f.user.repack = true;
    f.user.cpu = "a CPU: flags more";
    expect(&f, FOREBAY_E_UNSUPPORTED, "another processor");
    f.user.cpu = "a CPU: flags";
    f.user.llama = "1.3";
    expect(&f, FOREBAY_E_UNSUPPORTED, "another version of llama.cpp");
    f.user.llama = "1.2";
    struct fb_file *file = f.catalog->files[0];
    file->identity[2]++; /* as by touch -m */
    assert_int_equal(try_open(&f, NULL), FOREBAY_OK);
    flip(file->path, f.catalog->tensors[0].offset + f.catalog->tensors[0].bytes / 2, 1);
    expect(&f, FOREBAY_E_UNSUPPORTED, "content");
    flip(file->path, f.catalog->tensors[0].offset + f.catalog->tensors[0].bytes / 2, 1);
    file->identity[2]--;
    file->size--;
    expect(&f, FOREBAY_E_UNSUPPORTED, "another model");
    file->size++;
    /* The content has changed, and the modification time was set back. */
    uint64_t data = f.catalog->tensors[0].offset;
    for (int i = 0; i < 2; i++) {
        flip(file->path, i ? data : data / 2, 1);
        expect(&f, FOREBAY_E_UNSUPPORTED, "content");
        flip(file->path, i ? data : data / 2, 1);
    }
    assert_int_equal(try_open(&f, NULL), FOREBAY_OK);
    close_fixture(&f);
}

/* If any byte of head, index or checksums is changed, the file is refused. */
static void test_every_byte_counts(void **state)
{
    struct fixture f;
    struct fb_sidecar_head head;
    struct forebay_error err = {0};
    const char *why;
    (void)state;
    open_fixture(&f, "bytes.gguf");
    write_until(&f, f.path, f.layout.n_units);
    size_t n;
    char *whole = read_whole(f.path, &n);
    assert_true(fb_sidecar_head_unpack((unsigned char *)whole, &head, &why));
    free(whole);
    uint64_t index_end = 4096 + head.index_bytes, sums_end = head.sums_offset + 8 * head.n_sums;
    for (uint64_t at = 0; at < sums_end; at += at < 80 ? 1 : 13) {
        if (at >= index_end && at < head.sums_offset) {
            continue; /* padding */
        }
        flip(f.path, at, (unsigned char)(1u << at % 8));
        enum forebay_status status = try_open(&f, &err);
        if (status != FOREBAY_E_FORMAT || !err.message[0] || !err.hint[0]) {
            fail_msg("byte %llu: %s", (unsigned long long)at, forebay_status_name(status));
        }
        flip(f.path, at, (unsigned char)(1u << at % 8));
    }
    assert_int_equal(try_open(&f, NULL), FOREBAY_OK);
    close_fixture(&f);
}

static void test_truncated(void **state)
{
    struct fixture f;
    (void)state;
    open_fixture(&f, "short.gguf");
    write_until(&f, f.path, f.layout.n_units);
    uint64_t size = size_of(f.path);
    assert_int_equal(truncate(f.path, (off_t)size + 1), 0);
    expect(&f, FOREBAY_E_FORMAT, "truncated");
    for (uint64_t n = size - 1; n > 0; n = n > 20000 ? n - n / 5 : n - n / 3 - 1) {
        assert_int_equal(truncate(f.path, (off_t)n), 0);
        expect(&f, FOREBAY_E_FORMAT, "");
    }
    assert_int_equal(truncate(f.path, 0), 0);
    expect(&f, FOREBAY_E_FORMAT, "not a sidecar");
    write_until(&f, f.path, 3);
    char partial[PATH_MAX + 16];
    snprintf(partial, sizeof partial, "%s.partial", f.path);
    assert_int_equal(rename(partial, f.path), 0);
    expect(&f, FOREBAY_E_FORMAT, "incomplete");
    close_fixture(&f);
}

/* --- Forged ------------------------------------------------------------------------------- */

/* Replaces the index, with a head that has its checksum. */
static void forge(const struct fixture *f, const char *index, const struct fb_sidecar_head *as)
{
    unsigned char bytes[FB_SIDECAR_HEAD_BYTES];
    struct fb_sidecar_head head = *as;
    FILE *file = fopen(f->path, "r+b");
    assert_non_null(file);
    head.index_bytes = strlen(index);
    head.index_sum = fb_sidecar_sum(index, head.index_bytes);
    fb_sidecar_head_pack(&head, bytes);
    assert_int_equal(fwrite(bytes, 1, sizeof bytes, file), sizeof bytes);
    assert_int_equal(fwrite(index, 1, head.index_bytes, file), head.index_bytes);
    fclose(file);
}

/* The text with the n-th `from` replaced; NULL when there are fewer. */
static char *replaced(const char *text, const char *from, const char *to, int n)
{
    const char *at = strstr(text, from);
    while (at && n-- > 0) {
        at = strstr(at + 1, from);
    }
    if (!at) {
        return NULL;
    }
    size_t size = strlen(text) + strlen(to) + 1;
    char *out = malloc(size);
    snprintf(out, size, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

/* An inconsistent index is refused, although its checksum is valid: nothing is read beyond the
 * file, and no array is indexed out of range. */
static void test_forged_index(void **state)
{
    struct fixture f;
    struct fb_sidecar_head head;
    const char *why;
    size_t n;
    (void)state;
    open_fixture(&f, "forged.gguf");
    write_until(&f, f.path, f.layout.n_units);
    char *whole = read_whole(f.path, &n);
    assert_true(fb_sidecar_head_unpack((unsigned char *)whole, &head, &why));
    char *index = calloc(head.index_bytes + 1, 1);
    memcpy(index, whole + 4096, head.index_bytes);
    static const char *const keys[] = {"\"units\": ", "\"unit_bytes\": ", "\"offset\": ",
        "\"step\": ", "\"first_sum\": ", "\"sum_step\": "};
    static const char *const values[] = {
        "9223372036854775807, \"x\": ", "-1, \"x\": ", "1e3, \"x\": ", "\"5\", \"x\": ",
        "4611686018427387904, \"x\": ", "[], \"x\": ", "99999999999999999999, \"x\": "};
    int refused = 0;
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            char to[128];
            snprintf(to, sizeof to, "%s%s", keys[k], values[v]);
            char *forged = replaced(index, keys[k], to, (int)(v % 5));
            assert_non_null(forged);
            assert_true(4096 + strlen(forged) <= head.sums_offset);
            forge(&f, forged, &head);
            if (try_open(&f, NULL) != FOREBAY_E_FORMAT) {
                fail_msg("accepted: %s", to);
            }
            refused++;
            free(forged);
        }
    }
    assert_int_equal(refused, 42);
    static const char *const texts[] = {"", "{", "[]", "null", "{\"model\": 3}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        forge(&f, texts[i], &head);
        assert_int_not_equal(try_open(&f, NULL), FOREBAY_OK);
    }
    forge(&f, index, &head);
    assert_int_equal(try_open(&f, NULL), FOREBAY_OK);
    free(whole);
    free(index);
    close_fixture(&f);
}

static void test_forged_head(void **state)
{
    struct fixture f;
    struct fb_sidecar_head head;
    const char *why;
    size_t n;
    (void)state;
    open_fixture(&f, "head.gguf");
    write_until(&f, f.path, f.layout.n_units);
    char *whole = read_whole(f.path, &n);
    assert_true(fb_sidecar_head_unpack((unsigned char *)whole, &head, &why));
    static const uint64_t values[] = {0, 1, 4095, (uint64_t)1 << 33, INT64_MAX, UINT64_MAX};
    for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
        for (int field = 0; field < 5; field++) {
            struct fb_sidecar_head h = head;
            uint64_t *const fields[] = {
                &h.file_bytes, &h.index_bytes, &h.sums_offset, &h.n_sums, &h.index_sum};
            *fields[field] = values[v];
            unsigned char bytes[FB_SIDECAR_HEAD_BYTES];
            fb_sidecar_head_pack(&h, bytes);
            int fd = open(f.path, O_WRONLY);
            assert_int_equal(pwrite(fd, bytes, sizeof bytes, 0), sizeof bytes);
            close(fd);
            assert_int_equal(try_open(&f, NULL), FOREBAY_E_FORMAT);
        }
    }
    free(whole);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_every_unit_is_there),
        cmocka_unit_test(test_continues),
        cmocka_unit_test(test_spares_other_files),
        cmocka_unit_test(test_restarts),
        cmocka_unit_test(test_one_writer),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_every_byte_counts),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_forged_index),
        cmocka_unit_test(test_forged_head),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests_name("sidecar", tests, NULL, temp_remove);
}
