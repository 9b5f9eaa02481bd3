/*
 * test_bad_models.c - models that llama.cpp refuses, or would crash on: every one ends with an
 * error that gives the reason.
 *
 * The models are the project's own with another header: the type of one tensor, or one key, is
 * changed, and the weights are zeros (a sparse file).
 */
#include "model_files.h"

#include <signal.h>
#include <sys/resource.h>

#include "base/units.h"
#include "forebay.h"
#include "ggml.h"
#include "gguf.h"
#include "os/child.h"
#include "synth/synth.h"

#define MODEL OWN_MODELS_DIR "/fable-moe.gguf"

static struct gguf_context *model_header(void)
{
    struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
    struct gguf_context *header = gguf_init_from_file(MODEL, params);
    assert_non_null(header);
    return header;
}

/* Loads the model and computes with it. */
static enum forebay_status run_model(const char *path, struct forebay_error *err)
{
    static const int32_t prompt[] = {1, 2, 3};
    struct forebay_model_options options;
    struct forebay_model *model = NULL;
    struct forebay_session *session = NULL;
    forebay_model_options_init(&options);
    options.ctx = 32;
    options.batch = 4;
    options.threads = 1;
    memset(err, 0, sizeof *err);
    enum forebay_status status = forebay_model_load(path, &options, &model, err);
    if (status == FOREBAY_OK) {
        status = forebay_session_new(model, &session, err);
    }
    if (status == FOREBAY_OK) {
        status = forebay_eval(session, prompt, 3, false, err);
    }
    forebay_session_free(session);
    forebay_model_free(model);
    return status;
}

/* --- Types --------------------------------------------------------------------------------- */

static enum forebay_status run_with_type(
    const char *tensor, enum ggml_type type, struct forebay_error *err)
{
    struct gguf_context *header = model_header();
    assert_true(gguf_find_tensor(header, tensor) >= 0);
    gguf_set_tensor_type(header, tensor, type);
    const char *path = temp_path("type.gguf");
    write_model(header, path);
    gguf_free(header);
    enum forebay_status status = run_model(path, err);
    unlink(path);
    return status;
}

static void test_every_type_in_every_role_runs_or_is_refused(void **state)
{
    static const char *const tensors[] = {"token_embd.weight", "output_norm.weight",
        "blk.1.attn_q.weight", "blk.1.ffn_gate_inp.weight", "blk.1.ffn_gate_exps.weight"};
    struct forebay_error err;
    int ran = 0, refused = 0;
    (void)state;
    for (size_t t = 0; t < sizeof tensors / sizeof *tensors; t++) {
        for (int type = 0; type < GGML_TYPE_COUNT; type++) {
            if (ggml_type_size((enum ggml_type)type) == 0 ||
                32 % ggml_blck_size((enum ggml_type)type) != 0 ||
                (type >= GGML_TYPE_Q4_1 && type <= GGML_TYPE_Q5_1)) {
                continue; /* a type of the past, not for rows of this length, or much like Q4_0 */
            }
            enum forebay_status status = run_with_type(tensors[t], (enum ggml_type)type, &err);
            ran += status == FOREBAY_OK;
            refused += status == FOREBAY_E_UNSUPPORTED;
            if (status != FOREBAY_OK && status != FOREBAY_E_UNSUPPORTED) {
                fail_msg(
                    "%s as %s: %s", tensors[t], ggml_type_name((enum ggml_type)type), err.message);
            }
            if (status == FOREBAY_E_UNSUPPORTED) {
                assert_non_null(strstr(err.message, tensors[t]));
                assert_non_null(strstr(err.message, ggml_type_name((enum ggml_type)type)));
            }
        }
    }
    assert_true(ran >= 15);
    assert_true(refused >= 30);
}

static void test_types_that_kernels_know_are_not_refused(void **state)
{
    struct forebay_error err;
    (void)state;
    assert_int_equal(run_with_type("blk.1.attn_q.weight", GGML_TYPE_BF16, &err), FOREBAY_OK);
    assert_int_equal(run_with_type("blk.1.attn_q.weight", GGML_TYPE_Q5_1, &err), FOREBAY_OK);
    assert_int_equal(run_with_type("token_embd.weight", GGML_TYPE_F16, &err), FOREBAY_OK);
    assert_int_equal(
        run_with_type("blk.1.attn_q.weight", GGML_TYPE_F64, &err), FOREBAY_E_UNSUPPORTED);
    assert_int_equal(
        run_with_type("blk.1.attn_norm.weight", GGML_TYPE_F16, &err), FOREBAY_E_UNSUPPORTED);
}

/* --- Reasons ------------------------------------------------------------------------------- */

static void expect_reason(const char *path, const char *reason)
{
    struct forebay_error err;
    enum forebay_status status = run_model(path, &err);
    unlink(path);
    assert_int_equal(status, FOREBAY_E_LLAMA);
    if (!strstr(err.message, reason) || strstr(err.hint, "--ctx")) {
        fail_msg("%s / %s: expected \"%s\"", err.message, err.hint, reason);
    }
}

static void test_the_reason_of_llama_is_in_the_message(void **state)
{
    (void)state;
    const char *path = temp_path("reason.gguf");
    struct gguf_context *header = model_header();
    gguf_set_val_str(header, "general.architecture", "qwen99");
    write_model(header, path);
    gguf_free(header);
    expect_reason(path, "unknown model architecture: 'qwen99'");

    header = model_header();
    gguf_remove_key(header, "tokenizer.ggml.model");
    write_model(header, path);
    gguf_free(header);
    expect_reason(path, "tokenizer.ggml.model");

    header = model_header();
    gguf_set_val_i32(header, "tokenizer.ggml.eos_token_id", 2);
    write_model(header, path);
    gguf_free(header);
    expect_reason(path, "tokenizer.ggml.eos_token_id has wrong type i32");
}

/* --- Children ------------------------------------------------------------------------------ */

static void child_returns(void *shared, void *user)
{
    *(int *)shared = *(int *)user + 1;
}

static void child_aborts(void *shared, void *user)
{
    *(int *)shared = *(int *)user;
    abort();
}

static void test_a_child_may_die(void **state)
{
    int in = 41, out = 0, death = -1;
    (void)state;
    assert_int_equal(fb_child_run(child_returns, &in, &out, sizeof out, &death), FB_CHILD_RETURNED);
    assert_int_equal(out, 42);
    assert_int_equal(death, 0);
    assert_int_equal(fb_child_run(child_aborts, &in, &out, sizeof out, &death), FB_CHILD_DIED);
    assert_int_equal(out, 41);
    assert_int_equal(death, SIGABRT);
}

/* llama.cpp's rwkv6qwen2 divides by a head size of zero. */
static void test_a_crash_of_llama_is_an_error(void **state)
{
    struct forebay_error err;
    (void)state;
    const char *path = temp_path("crash.gguf");
    static const char *const sizes[] = {"block_count", "context_length", "embedding_length",
        "feed_forward_length", "attention.head_count", "attention.head_count_kv", "vocab_size",
        "token_shift_count", "time_mix_extra_dim", "time_decay_extra_dim",
        "rescale_every_n_layers"};
    struct gguf_context *header = model_header();
    gguf_set_val_str(header, "general.architecture", "rwkv6qwen2");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char key[96];
        snprintf(key, sizeof key, "rwkv6qwen2.%s", sizes[i]);
        gguf_set_val_u32(header, key, i == 0 ? 4 : 128);
    }
    gguf_set_val_f32(header, "rwkv6qwen2.attention.layer_norm_epsilon", 1e-6f);
    gguf_set_val_f32(header, "rwkv6qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
    gguf_set_val_u32(header, "rwkv6qwen2.wkv.head_size", 0);
    add_tensor(header, "output.weight", GGML_TYPE_F32, 128, 1536, 1);
    write_model(header, path);
    gguf_free(header);
    assert_int_equal(run_model(path, &err), FOREBAY_E_LLAMA);
    unlink(path);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, "it crashed (signal 8)"));
}

/* --- Limits -------------------------------------------------------------------------------- */

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static void load_with_little_address_space(void *shared, void *user)
{
    setrlimit(RLIMIT_AS, &(struct rlimit){2 * FB_GIB, 2 * FB_GIB});
    run_model(user, shared);
}

static void test_a_limit_of_address_space_is_named(void **state)
{
    (void)state;
    const char *path = temp_path("large.gguf");
    struct fb_synth_shape shape;
    struct forebay_error err = {0};
    int death;
    fb_synth_shape_init(&shape);
    shape.size_bytes = 4 * FB_GIB;
    shape.arch = "qwen3moe";
    shape.vocab = 300;
    assert_int_equal(fb_synth_sparse(&shape, path, NULL, &err), FOREBAY_OK);
    assert_int_equal(
        fb_child_run(load_with_little_address_space, (void *)path, &err, sizeof err, &death),
        FB_CHILD_RETURNED);
    assert_int_equal(err.status, FOREBAY_E_NOMEM);
    assert_non_null(strstr(err.hint, "(ulimit -v) is 2.0 GiB"));
    unlink(path);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_child_may_die),
        cmocka_unit_test(test_the_reason_of_llama_is_in_the_message),
        cmocka_unit_test(test_a_crash_of_llama_is_an_error),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(test_a_limit_of_address_space_is_named),
#endif
        cmocka_unit_test(test_types_that_kernels_know_are_not_refused),
        cmocka_unit_test(test_every_type_in_every_role_runs_or_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, temp_remove);
}
