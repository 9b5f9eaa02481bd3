/*
 * test_exact_sidecar.c - a model with a sidecar gives llama.cpp's logits: with every way of
 * reading, when the sidecar is damaged anywhere, when it belongs to another model, and when making
 * it was interrupted.
 */
#include "sidecar_fixture.h"

#include <signal.h>

#include "sidecar/format.h"
#include "sidecar/sidecar.h"
#include "sidecar/writer.h"

static const struct shape shape_of[] = {
    {.batch = 7, .threads = 1, .prompt = 18, .generated = 3, .repack = false},
    {.batch = 7, .threads = 1, .prompt = 18, .generated = 3, .repack = true},
};

static const struct kind experts = {"qwen3moe", "Q4_K", 8, 256, false};

static struct forebay_model_options some_memory(const char *path, bool repack, uint64_t percent)
{
    struct forebay_model_options options = shape_options(&shape_of[repack]);
    options.weights_mem_bytes = weights_bytes_of(path) * percent / 100;
    return options;
}

/* False when llama.cpp itself cannot run the model in the CPU's layout (see run_plain). */
static bool can_plain(const char *path, bool repack, struct rows *rows)
{
    struct forebay_model_options options = shape_options(&shape_of[repack]);
    struct forebay_error err;
    options.plain = true;
    enum forebay_status status = evaluate(path, &shape_of[repack], &options, rows, NULL, &err);
    if (status == FOREBAY_E_LLAMA && repack) {
        return false;
    }
    if (status != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return true;
}

static struct rows plain(const char *path, bool repack)
{
    struct rows rows;
    assert_true(can_plain(path, repack, &rows));
    return rows;
}

/* Runs the model and requires the rows. Returns the bytes that are read from the sidecar. */
static uint64_t same_as(
    const struct rows *want, const char *path, const struct forebay_model_options *options)
{
    struct forebay_placement placement;
    struct forebay_error err;
    struct rows got;
    enum forebay_status status =
        evaluate(path, &shape_of[options->repack], options, &got, &placement, &err);
    if (status != FOREBAY_OK || !same_rows(want, &got)) {
        fail_msg("%s, --io %s, %llu bytes: %s", path, options->io_method,
            (unsigned long long)options->weights_mem_bytes,
            status == FOREBAY_OK ? "other rows" : err.message);
    }
    rows_free(&got);
    return placement.sidecar_bytes;
}

static enum forebay_status optimize(
    const char *path, bool repack, struct forebay_optimized *out, struct forebay_error *err)
{
    struct forebay_optimize_options o;
    forebay_optimize_options_init(&o);
    o.repack = repack;
    o.threads = 1;
    return forebay_optimize(path, &o, out, err);
}

static void must_optimize(const char *path, bool repack, struct forebay_optimized *out)
{
    struct forebay_error err;
    if (optimize(path, repack, out, &err) != FOREBAY_OK) {
        fail_msg("%s: %s", path, err.message);
    }
}

static void remove_sidecars(const char *path, int want)
{
    int n;
    assert_int_equal(forebay_optimize_remove(path, NULL, &n, NULL), FOREBAY_OK);
    assert_int_equal(n, want);
}

/* --- Intact -------------------------------------------------------------------------------- */

/* One model in one layout, by every method and with more and less memory. */
static void check_model(const char *path, bool repack, int number)
{
    struct forebay_optimized done;
    struct forebay_error err;
    struct rows want;
    if (!can_plain(path, repack, &want)) {
        print_message("# %s: plain llama.cpp cannot run it with this CPU's layout\n", path);
        return;
    }
    enum forebay_status status = optimize(path, repack, &done, &err);
    if (status == FOREBAY_E_UNSUPPORTED) { /* dense weights as stored */
        assert_non_null(strstr(err.message, "nothing to optimize"));
        rows_free(&want);
        return;
    }
    if (status != FOREBAY_OK) {
        fail_msg("%s: %s", path, err.message);
    }
    forget_warnings();
    for (int i = 0; i < COUNT(methods); i++) {
        struct forebay_model_options options = some_memory(path, repack, i % 2 ? 60 : 85);
        options.io_method = methods[(i + number) % COUNT(methods)];
        assert_true(same_as(&want, path, &options) > 0);
    }
    if (n_said > 0) {
        fail_msg("%s: %s", path, said);
    }
    remove_sidecars(path, 1);
    rows_free(&want);
}

static void test_models(void **state)
{
    static const struct kind kinds[] = {
        {"qwen3moe", "Q4_K_M", 8, 256, false},  /* some experts of another type */
        {"qwen3moe", "Q4_0", 8, 96, false},     /* unaligned experts */
        {"gpt-oss", "MXFP4_MOE", 8, 96, false}, /* biases, which stay with llama.cpp */
        {"deepseek2", "Q4_K", 8, 256, false},   /* dense layers, shared experts, 3-d weights */
        {"llama", "Q4_K", 0, 512, false},
        {"qwen3moe", "F16", 8, 64, false}, /* nothing is repacked */
    };
    (void)state;
    for (int i = 0; i < COUNT(kinds); i++) {
        char name[32];
        snprintf(name, sizeof name, "kind-%d.gguf", i);
        const char *path = temp_path(name);
        make_kind(path, &kinds[i], 1);
        for (int repack = 0; repack < 2; repack++) {
            check_model(path, repack == 1, i);
        }
        remove(path);
    }
}

static void test_split_model(void **state)
{
    struct fb_synth_shape s;
    struct forebay_error err;
    (void)state;
    fb_synth_shape_init(&s);
    s.arch = "qwen3moe";
    s.type = "Q4_K";
    s.layers = 4;
    s.embd = 256;
    s.heads = 4;
    s.ff = 256;
    s.vocab = 320;
    s.experts = 8;
    s.experts_used = 2;
    s.output.split_max_bytes = 1500000;
    if (fb_synth_random(&s, temp_path("split.gguf"), NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    const char *path = NULL;
    for (int n = 2; n < 9 && !path; n++) {
        char name[64];
        snprintf(name, sizeof name, "split-00001-of-%05d.gguf", n);
        path = access(temp_path(name), F_OK) == 0 ? temp_path(name) : NULL;
    }
    assert_non_null(path);
    check_model(path, true, 0);
}

/* --- Damaged ------------------------------------------------------------------------------- */

/* Wherever a byte is changed, the logits stay the same, and a warning is given. */
static void test_damaged_anywhere(void **state)
{
    struct forebay_optimized done;
    (void)state;
    const char *path = temp_path("damaged.gguf");
    make_kind(path, &experts, 2);
    struct rows want = plain(path, true);
    must_optimize(path, true, &done);
    struct forebay_model_options options = some_memory(path, true, 60);
    uint64_t size = size_of(done.path), step = size / 37;
    int n_refused = 0, n_repaired = 0;
    for (uint64_t at = 0; at < size; at += step) {
        options.io_method = methods[at / step % 3];
        flip(done.path, at, 0x10);
        forget_warnings();
        uint64_t served = same_as(&want, path, &options);
        n_refused += served == 0 && strstr(said, "not used") != NULL;
        n_repaired += served > 0 && strstr(said, "is damaged") != NULL;
        assert_true(served > 0 || n_said == 1);
        flip(done.path, at, 0x10);
    }
    assert_true(n_refused > 0);
    assert_true(n_repaired > 10);
    /* A read that fails. */
    options.io_method = "fault:sync,eio_at=60";
    forget_warnings();
    assert_true(same_as(&want, path, &options) > 0);
    assert_int_equal(n_said, 1);
    options.io_method = "auto";
    /* All of it zero, as after a disk lost it. */
    struct fb_sidecar_head head;
    unsigned char bytes[4096];
    const char *why;
    size_t n;
    char *whole = read_whole(done.path, &n);
    memcpy(bytes, whole, sizeof bytes);
    assert_true(fb_sidecar_head_unpack(bytes, &head, &why));
    uint64_t data = fb_sidecar_data_offset(&head);
    memset(whole + data, 0, n - data);
    write_file(done.path, whole, n);
    free(whole);
    forget_warnings();
    assert_true(same_as(&want, path, &options) > 0);
    assert_int_equal(n_said, 1);
    rows_free(&want);
    remove_sidecars(path, 1);
}

/* Truncating or overwriting the file while it is in use is an error, as for a model. Unlinking it
 * changes nothing. */
static void test_changed_while_in_use(void **state)
{
    static const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct forebay_optimized done;
    struct forebay_model *model;
    struct forebay_session *session;
    struct forebay_error err;
    (void)state;
    const char *path = temp_path("lost.gguf");
    make_kind(path, &experts, 3);
    struct forebay_model_options options = some_memory(path, true, 60);
    for (int change = 0; change < 3; change++) {
        must_optimize(path, true, &done);
        assert_int_equal(forebay_model_load(path, &options, &model, &err), FOREBAY_OK);
        assert_int_equal(forebay_session_new(model, &session, &err), FOREBAY_OK);
        if (change == 0) {
            assert_int_equal(truncate(done.path, 20000), 0);
        } else if (change == 1) {
            flip(done.path, size_of(done.path) - 5000, 1);
        } else {
            remove_sidecars(path, 1);
        }
        enum forebay_status status = forebay_eval(session, tokens, 8, false, &err);
        assert_int_equal(status, change < 2 ? FOREBAY_E_IO : FOREBAY_OK);
        assert_true(change == 2 || strstr(err.message, "changed while in use"));
        forebay_session_free(session);
        forebay_model_free(model);
    }
}

/* --- Not the model's ----------------------------------------------------------------------- */

static void test_foreign(void **state)
{
    struct forebay_optimized done;
    (void)state;
    const char *path = temp_path("mine.gguf"), *other = temp_path("other.gguf");
    make_kind(path, &experts, 4);
    make_kind(other, &experts, 5); /* another seed: other weights, all else the same */
    struct rows want = plain(path, true), want_stored = plain(path, false);
    struct forebay_model_options options = some_memory(path, true, 60);
    must_optimize(other, true, &done);
    char place[PATH_MAX];
    snprintf(place, sizeof place, "%s.forebay", path);
    assert_int_equal(rename(done.path, place), 0);
    forget_warnings();
    assert_int_equal(same_as(&want, path, &options), 0);
    assert_non_null(strstr(said, "content"));
    /* With the same time of modification. */
    struct stat st;
    assert_int_equal(stat(other, &st), 0);
    const struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    forget_warnings();
    assert_int_equal(same_as(&want, path, &options), 0);
    assert_non_null(strstr(said, "content"));
    /* Its own, but of the other layout. */
    must_optimize(path, true, &done);
    assert_false(done.was_there);
    assert_string_equal(done.path, place);
    assert_true(same_as(&want, path, &options) > 0);
    must_optimize(path, true, &done);
    assert_true(done.was_there);
    struct forebay_model_options stored = some_memory(path, false, 60);
    forget_warnings();
    assert_int_equal(same_as(&want_stored, path, &stored), 0);
    assert_non_null(strstr(said, "--no-repack"));
    /* Switched off. */
    options.sidecar = "none";
    forget_warnings();
    assert_int_equal(same_as(&want, path, &options), 0);
    assert_int_equal(n_said, 0);
    options.sidecar = temp_path("not there");
    struct forebay_error err;
    struct rows got;
    assert_int_equal(evaluate(path, &shape_of[1], &options, &got, NULL, &err), FOREBAY_E_IO);
    rows_free(&want);
    rows_free(&want_stored);
}

/* --- Interrupted --------------------------------------------------------------------------- */

/* Dies at the n-th report of progress. */
static bool die_at(const char *what, uint64_t done, uint64_t total, void *user)
{
    int *n = user;
    (void)what;
    (void)done;
    (void)total;
    if ((*n)-- == 0) {
        raise(SIGKILL);
    }
    return true;
}

static void test_killed(void **state)
{
    struct forebay_optimized whole;
    (void)state;
    const char *path = temp_path("killed.gguf"), *out = temp_path("killed.out");
    struct kind kind = experts;
    kind.experts = 32;
    make_kind(path, &kind, 6);
    must_optimize(path, true, &whole);
    int kills = 0;
    for (bool done = false; !done;) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct forebay_optimize_options o;
            struct forebay_optimized result;
            int n = 2;
            forebay_optimize_options_init(&o);
            o.threads = 1;
            o.output = out;
            o.progress = die_at;
            o.progress_user = &n;
            fb_sidecar_checkpoint_bytes = 100000;
            enum forebay_status status = forebay_optimize(path, &o, &result, NULL);
            _exit(status == FOREBAY_OK && result.resumed_from > 0 ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) || WTERMSIG(status) == SIGKILL);
        done = WIFEXITED(status);
        assert_true(!done || WEXITSTATUS(status) == 0);
        kills += !done;
        assert_true(kills < 100);
    }
    assert_true(kills > 1);
    assert_true(same_files(whole.path, out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_split_model),
        cmocka_unit_test(test_damaged_anywhere),
        cmocka_unit_test(test_changed_while_in_use),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_killed),
    };
    forebay_log_set_level(FOREBAY_LOG_WARN);
    forebay_log_set_sink(note_warning, NULL);
    return cmocka_run_group_tests_name("exact_sidecar", tests, NULL, temp_remove);
}
