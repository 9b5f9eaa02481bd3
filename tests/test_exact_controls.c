/*
 * test_exact_controls.c - the comparison of exact.h can fail: wrong bytes never give the same
 * logits. And exactness on paths that the models of the other tests are too small for.
 */
#include "exact.h"

#include "backend/device_state.h"
#include "synth/synth.h"

static const struct shape small = {
    .batch = 7, .threads = 1, .prompt = 18, .generated = 2, .repack = true};

static void make_model_using(const char *path, const char *arch, int experts, int used)
{
    struct fb_synth_shape s;
    struct forebay_error err;
    fb_synth_shape_init(&s);
    s.arch = arch;
    s.type = "Q4_K_M";
    s.layers = 2;
    s.embd = 256;
    s.heads = 4;
    s.ff = 256;
    s.vocab = 300;
    s.experts = experts;
    s.experts_used = used;
    if (fb_synth_random(&s, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

static void make_model(const char *path, const char *arch, int experts)
{
    make_model_using(path, arch, experts, experts ? 2 : 0);
}

static struct rows plain_rows(const char *path, const struct shape *shape)
{
    struct forebay_model_options options = shape_options(shape);
    struct forebay_error err;
    struct rows rows;
    options.plain = true;
    if (evaluate(path, shape, &options, &rows, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return rows;
}

/* Memory for a part of the weights: enough for the dense ones, not for all experts. */
static uint64_t part_of_weights(const char *path, uint64_t percent)
{
    return weights_bytes_of(path) * percent / 100;
}

static enum forebay_status streamed_rows(
    const char *path, const char *method, struct rows *rows, struct forebay_error *err)
{
    struct forebay_model_options options = shape_options(&small);
    options.io_method = method;
    options.weights_mem_bytes = part_of_weights(path, 60);
    return evaluate(path, &small, &options, rows, NULL, err);
}

/* --- Wrong bytes -------------------------------------------------------------------------- */

/* The number of reads of a run: a fault at a later one has no effect. */
static int count_reads(const char *path)
{
    int low = 0, high = 4096; /* read `low` is made, `high` is not */
    while (high - low > 1) {
        int middle = (low + high) / 2;
        char method[64];
        struct rows rows;
        snprintf(method, sizeof method, "fault:sync,eio_at=%d", middle);
        enum forebay_status status = streamed_rows(path, method, &rows, NULL);
        assert_true(status == FOREBAY_OK || status == FOREBAY_E_IO);
        *(status == FOREBAY_OK ? &high : &low) = middle;
        rows_free(&rows);
    }
    return low;
}

/* Every read is used: whichever is corrupted, the logits differ. (There are so many experts that
 * none is read before the router has chosen it.) */
static void check_corruption(const char *path)
{
    struct rows want = plain_rows(path, &small);
    int n = count_reads(path);
    assert_true(n > 20);
    for (int i = n % 3; i <= n + 3; i += 3) {
        char method[64];
        struct rows got;
        snprintf(method, sizeof method, "fault:sync,corrupt_at=%d", i ? i : 1);
        assert_int_equal(streamed_rows(path, method, &got, NULL), FOREBAY_OK);
        if (same_rows(&want, &got) != (i > n)) {
            fail_msg("read %d of %d corrupted: %s", i, n,
                i > n ? "the logits differ" : "the logits do not differ");
        }
        rows_free(&got);
    }
    rows_free(&want);
}

static void test_corrupted_reads_change_logits(void **state)
{
    (void)state;
    const char *path = temp_path("experts.gguf");
    make_model(path, "qwen3moe", 16);
    check_corruption(path);
    path = temp_path("dense.gguf");
    make_model(path, "llama", 0);
    check_corruption(path);
}

/* Exchanges the first two experts of a tensor in the file. */
static void swap_experts(const char *path, const struct forebay_tensor_info *tensor)
{
    size_t size;
    char *bytes = read_whole(path, &size);
    char *first = bytes + tensor->offset, *second = first + tensor->expert_bytes;
    assert_true(tensor->offset + 2 * tensor->expert_bytes <= size);
    for (uint64_t i = 0; i < tensor->expert_bytes; i++) {
        char byte = first[i];
        first[i] = second[i];
        second[i] = byte;
    }
    write_file(path, bytes, size);
    free(bytes);
}

static void test_swapped_experts_change_logits(void **state)
{
    (void)state;
    const char *path = temp_path("swapped.gguf");
    make_model(path, "qwen3moe", 8);
    struct rows original = plain_rows(path, &small);
    struct forebay_file *file;
    struct forebay_file_info info;
    int n_swapped = 0;
    assert_int_equal(forebay_file_open(path, &file, NULL), FOREBAY_OK);
    forebay_file_describe(file, &info);
    for (int i = 0; i < info.n_tensors; i++) {
        struct forebay_tensor_info tensor;
        forebay_file_tensor(file, i, &tensor);
        if (tensor.n_expert == 0) {
            continue;
        }
        struct rows swapped;
        swap_experts(path, &tensor);
        assert_int_equal(streamed_rows(path, "auto", &swapped, NULL), FOREBAY_OK);
        assert_false(same_rows(&original, &swapped));
        rows_free(&swapped);
        swap_experts(path, &tensor);
        n_swapped++;
    }
    assert_int_equal(n_swapped, 6); /* gate, up and down of two layers */
    struct rows again;
    assert_int_equal(streamed_rows(path, "auto", &again, NULL), FOREBAY_OK);
    assert_true(same_rows(&original, &again));
    rows_free(&again);
    rows_free(&original);
    forebay_file_free(file);
}

/* --- Reads that fail ---------------------------------------------------------------------- */

/* As forebay_eval, but repeated once after a failed read. */
static enum forebay_status eval_again(struct forebay_session *session, const int32_t *tokens,
    size_t n, int *n_failed, struct forebay_error *err)
{
    enum forebay_status status = forebay_eval(session, tokens, n, false, err);
    if (status == FOREBAY_E_IO) {
        ++*n_failed;
        assert_true(err->message[0]);
        status = forebay_eval(session, tokens, n, false, err);
    }
    return status;
}

/* Adds the last row of a prompt, evaluated in three parts while a read fails. Returns the number of
 * failures; after one, there may be no row. */
static int row_despite_failure(const char *path, const char *method, struct rows *rows)
{
    static const int32_t tokens[] = {7, 6, 5, 4, 3, 2, 1, 9, 8, 7};
    struct forebay_model_options options = shape_options(&small);
    struct forebay_model *model = NULL;
    struct forebay_session *session;
    struct forebay_error err;
    int n_failed = 0;
    options.io_method = method;
    options.weights_mem_bytes = part_of_weights(path, 60);
    enum forebay_status status = forebay_model_load(path, &options, &model, &err);
    if (status != FOREBAY_OK) {
        assert_int_equal(status, FOREBAY_E_IO);
        return 1;
    }
    assert_int_equal(forebay_session_new(model, &session, &err), FOREBAY_OK);
    status = eval_again(session, tokens, 5, &n_failed, &err);
    for (int i = 0; i < 2 && status == FOREBAY_OK; i++) {
        status = eval_again(session, tokens + 5 + 3 * i, i ? 2 : 3, &n_failed, &err);
    }
    if (status == FOREBAY_OK) {
        rows->n_vocab = (size_t)forebay_model_n_vocab(model);
        rows_add(rows, forebay_logits(session, 0));
    }
    forebay_session_free(session);
    forebay_model_free(model);
    return n_failed;
}

/* Fails one read after the other, each in a run of its own. Returns the number of runs that gave
 * the row nevertheless. */
static int fail_reads(const char *path, const char *inner)
{
    struct rows want = {0};
    int n_survived = 0;
    assert_int_equal(row_despite_failure(path, "sync", &want), 0);
    for (int at = 1;; at += 2) {
        char method[64];
        struct rows got = {0};
        snprintf(method, sizeof method, "fault:%s,eio_at=%d", inner, at);
        if (row_despite_failure(path, method, &got) == 0) {
            assert_true(same_rows(&want, &got));
            rows_free(&got);
            break;
        }
        if (got.n) {
            assert_true(same_rows(&want, &got));
            n_survived++;
        }
        rows_free(&got);
    }
    rows_free(&want);
    return n_survived;
}

/* A failed read fails its evaluation, and nothing else. */
static void test_session_survives_failed_read(void **state)
{
    (void)state;
    const char *path = temp_path("failing.gguf");
    make_model(path, "qwen3moe", 8);
    assert_true(fail_reads(path, "sync") > 10);
    assert_true(fail_reads(path, "threads") > 10);
}

/* Recurrent state cannot be rolled back: the session may be over, but must not give wrong rows. */
static void test_no_wrong_row_after_failed_read(void **state)
{
    (void)state;
    const char *path = temp_path("recurrent.gguf");
    make_model(path, "qwen3next", 8);
    fail_reads(path, "sync");
}

/* --- Many rows ---------------------------------------------------------------------------- */

/* Rows of experts are gathered in blocks; here of 64 rows: of several experts, and of one that has
 * more. */
static void test_blocks_of_rows(void **state)
{
    (void)state;
    const char *path = temp_path("blocks.gguf");
    make_model(path, "mixtral", 8);
    for (int repack = 0; repack < 2; repack++) {
        const struct shape shape = {
            .batch = 400, .threads = 1, .prompt = 400, .generated = 1, .repack = repack};
        struct forebay_model_options options = shape_options(&shape);
        struct rows want = plain_rows(path, &shape), got;
        uint64_t usual = fb_device.block_bytes;
        options.weights_mem_bytes = part_of_weights(path, 60);
        fb_device.block_bytes = 1;
        assert_int_equal(evaluate(path, &shape, &options, &got, NULL, NULL), FOREBAY_OK);
        fb_device.block_bytes = usual;
        assert_true(same_rows(&want, &got));
        rows_free(&got);
        rows_free(&want);
    }
}

/* More rows than a block has room for, of experts that all have slots but are still being read: too
 * few tokens for computing in sets. */
static void test_many_rows_wait_for_their_experts(void **state)
{
    (void)state;
    const char *path = temp_path("rows.gguf");
    const struct shape shape = {
        .batch = 10, .threads = 1, .prompt = 20, .generated = 1, .repack = true};
    struct forebay_model_options options = shape_options(&shape);
    options.io_method = "fault:threads,late_ms=2";
    make_model_using(path, "qwen3moe", 16, 12);
    struct rows want = plain_rows(path, &shape), got;
    uint64_t usual = fb_device.block_bytes;
    struct forebay_placement placement;
    fb_device.block_bytes = 1;
    uint64_t percent = 150;
    do { /* down to one slot too few: no preload, yet some layer has a slot for every expert */
        options.weights_mem_bytes = part_of_weights(path, percent--);
        assert_int_equal(evaluate(path, &shape, &options, &got, &placement, NULL), FOREBAY_OK);
        assert_true(same_rows(&want, &got));
        rows_free(&got);
    } while (placement.n_slots == placement.n_experts);
    fb_device.block_bytes = usual;
    assert_true(placement.n_slots > placement.n_experts - 4);
    rows_free(&want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_corrupted_reads_change_logits),
        cmocka_unit_test(test_swapped_experts_change_logits),
        cmocka_unit_test(test_session_survives_failed_read),
        cmocka_unit_test(test_no_wrong_row_after_failed_read),
        cmocka_unit_test(test_blocks_of_rows),
        cmocka_unit_test(test_many_rows_wait_for_their_experts),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests_name("exact_controls", tests, NULL, temp_remove);
}
