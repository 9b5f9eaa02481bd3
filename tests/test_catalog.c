/*
 * test_catalog.c - the catalogue: roles from names, a small model computed by hand, every shared
 * model compared with gguf.h's own reading of it, split sets, and the errors for files that cannot
 * be opened.
 */
#include "model_files.h"

#include <errno.h>
#include <fcntl.h>

#include "base/units.h"
#include "model/catalog.h"
#include "model/names.h"
#include "model/roles.h"
#include "model/runnable.h"
#include "model/split.h"

/* --- Names -------------------------------------------------------------------------------- */

static void test_roles(void **state)
{
    static const struct {
        const char *name;
        enum fb_role role;
        int layer;
        int expert_dim;
    } cases[] = {
        {"token_embd.weight", FB_ROLE_EMBEDDING, -1, -1},
        {"position_embd.weight", FB_ROLE_EMBEDDING, -1, -1},
        {"token_types.weight", FB_ROLE_EMBEDDING, -1, -1},
        {"per_layer_token_embd.weight", FB_ROLE_EMBEDDING, -1, -1},
        {"per_layer_model_proj.weight", FB_ROLE_OTHER, -1, -1},
        {"token_embd_norm.weight", FB_ROLE_NORM, -1, -1},
        {"output_norm.weight", FB_ROLE_NORM, -1, -1},
        {"output.weight", FB_ROLE_OUTPUT, -1, -1},
        {"cls.output.weight", FB_ROLE_OUTPUT, -1, -1},
        {"rope_freqs.weight", FB_ROLE_OTHER, -1, -1},
        {"blk.0.attn_q.weight", FB_ROLE_ATTENTION, 0, -1},
        {"blk.17.attn_output.bias", FB_ROLE_ATTENTION, 17, -1},
        {"blk.17.attn_q_norm.weight", FB_ROLE_NORM, 17, -1},
        {"blk.3.attn_kv_a_mqa.weight", FB_ROLE_ATTENTION, 3, -1},
        {"blk.3.ssm_a", FB_ROLE_ATTENTION, 3, -1},
        {"blk.3.ssm_conv1d.weight", FB_ROLE_ATTENTION, 3, -1},
        {"blk.3.time_mix_key.weight", FB_ROLE_ATTENTION, 3, -1},
        {"blk.3.time_mix_ln.weight", FB_ROLE_NORM, 3, -1},
        {"blk.3.channel_mix_key.weight", FB_ROLE_DENSE_FFN, 3, -1},
        {"blk.3.shortconv.in_proj.weight", FB_ROLE_ATTENTION, 3, -1},
        {"blk.3.ffn_norm.weight", FB_ROLE_NORM, 3, -1},
        {"blk.3.ffn_gate.weight", FB_ROLE_DENSE_FFN, 3, -1},
        {"blk.3.ffn_down.bias", FB_ROLE_DENSE_FFN, 3, -1},
        {"blk.3.ffn_gate_inp.weight", FB_ROLE_ROUTER, 3, -1},
        {"blk.3.ffn_gate_inp.bias", FB_ROLE_ROUTER, 3, -1},
        {"blk.3.exp_probs_b.bias", FB_ROLE_ROUTER, 3, -1},
        {"blk.127.ffn_gate_exps.weight", FB_ROLE_EXPERT_GATE, 127, 2},
        {"blk.127.ffn_up_exps.weight", FB_ROLE_EXPERT_UP, 127, 2},
        {"blk.127.ffn_down_exps.weight", FB_ROLE_EXPERT_DOWN, 127, 2},
        {"blk.127.ffn_gate_up_exps.weight", FB_ROLE_EXPERT_GATE_UP, 127, 2},
        {"blk.1.ffn_up_exps.bias", FB_ROLE_EXPERT_AUX, 1, 1},
        {"blk.1.ffn_up_exps.scale", FB_ROLE_EXPERT_AUX, 1, 0},
        {"blk.1.ffn_up_exps.input_scale", FB_ROLE_EXPERT_AUX, 1, 0},
        {"blk.1.ffn_norm_exps.weight", FB_ROLE_NORM, 1, -1},
        {"blk.1.ffn_up_chexps.weight", FB_ROLE_EXPERT_UP, 1, 2},
        {"blk.1.ffn_up_shexp.weight", FB_ROLE_SHARED_EXPERT, 1, -1},
        {"blk.1.ffn_gate_inp_shexp.weight", FB_ROLE_SHARED_EXPERT, 1, -1},
        {"blk.4.ffn_down.7.weight", FB_ROLE_EXPERT_DOWN, 4, -1},
        {"enc.blk.2.attn_q.weight", FB_ROLE_ATTENTION, 2, -1},
        {"dec.blk.5.cross_attn_k.weight", FB_ROLE_ATTENTION, 5, -1},
        {"convnext.6.pw1.weight", FB_ROLE_OTHER, 6, -1},
        {"blk.9.nextn.embed_tokens.weight", FB_ROLE_EMBEDDING, 9, -1},
        {"blk.9.nextn.shared_head_head.weight", FB_ROLE_OUTPUT, 9, -1},
        {"", FB_ROLE_OTHER, -1, -1},
        {".", FB_ROLE_OTHER, -1, -1},
        {"blk.", FB_ROLE_OTHER, -1, -1},
        {"blk.99999999999.attn_q.weight", FB_ROLE_OTHER, -1, -1},
        {"blk.-1.attn_q.weight", FB_ROLE_OTHER, -1, -1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        print_message("%s\n", cases[i].name);
        assert_string_equal(fb_role_name(fb_role_of(cases[i].name)), fb_role_name(cases[i].role));
        assert_int_equal(fb_layer_of(cases[i].name), cases[i].layer);
        assert_int_equal(fb_expert_dim_of(cases[i].name), cases[i].expert_dim);
    }
    assert_string_equal(fb_role_name(FB_ROLE_EXPERT_GATE_UP), "expert gate_up");
}

static void test_names(void **state)
{
    enum { N = 5000 };
    (void)state;
    char(*text)[12] = malloc(sizeof *text * N);
    struct fb_names *names = fb_names_new(N);
    assert_int_equal(fb_names_find(names, "a", 1), -1);
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "t%d", i * 7);
        assert_int_equal(fb_names_add(names, text[i], strlen(text[i])), -1);
    }
    for (int i = 0; i < N; i++) {
        char copy[12];
        snprintf(copy, sizeof copy, "t%d", i * 7);
        assert_int_equal(fb_names_find(names, copy, strlen(copy)), i);
        assert_int_equal(fb_names_add(names, copy, strlen(copy)), i);
        snprintf(copy, sizeof copy, "t%d", i * 7 + 1);
        assert_int_equal(fb_names_find(names, copy, strlen(copy)), -1);
    }
    assert_int_equal(fb_names_find(names, "t77", 2), 1); /* "t7" */
    fb_names_free(names);
    free(text);
}

static void test_split_names(void **state)
{
    (void)state;
    assert_true(fb_split_is_named("/a/m-00001-of-00003.gguf", 0, 3));
    assert_false(fb_split_is_named("/a/m-00002-of-00003.gguf", 0, 3));
    assert_false(fb_split_is_named("-00001-of-00003.gguf", 0, 3));
    assert_false(fb_split_is_named("/a/m.gguf", 0, 3));
    char *path = fb_split_path("/a/m-00002-of-00003.gguf", 0, 3);
    assert_string_equal(path, "/a/m-00001-of-00003.gguf");
    free(path);
    path = fb_split_path("m-x-00001-of-12345.gguf", 12344, 12345);
    assert_string_equal(path, "m-x-12345-of-12345.gguf");
    free(path);
    assert_null(fb_split_path("m-00001-of-00004.gguf", 0, 3));
    assert_null(fb_split_path("m-0001-of-00003.gguf", 0, 3));
    assert_null(fb_split_path("m-0000x-of-00003.gguf", 0, 3));
    assert_null(fb_split_path("", 0, 3));
}

/* --- A model computed by hand ----------------------------------------------------------------- */

/* 4 experts, 2 used; Q4_0 blocks are 32 values in 18 bytes. */
static struct gguf_context *small_model(bool tied)
{
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", "tiny");
    gguf_set_val_str(g, "general.name", "A tiny model");
    gguf_set_val_u32(g, "tiny.block_count", 2);
    gguf_set_val_u32(g, "tiny.expert_count", 4);
    gguf_set_val_u16(g, "tiny.expert_used_count", 2);
    add_tensor(g, "token_embd.weight", GGML_TYPE_F32, 32, 10, 1);          /* 1280 */
    add_tensor(g, "blk.0.attn_norm.weight", GGML_TYPE_F32, 32, 1, 1);      /* 128 */
    add_tensor(g, "blk.0.ffn_gate_inp.weight", GGML_TYPE_F32, 32, 4, 1);   /* 512 */
    add_tensor(g, "blk.0.ffn_up_exps.weight", GGML_TYPE_Q4_0, 32, 3, 4);   /* 216 */
    add_tensor(g, "blk.0.ffn_up_exps.bias", GGML_TYPE_F32, 3, 4, 1);       /* 48 */
    add_tensor(g, "blk.0.ffn_up_exps.scale", GGML_TYPE_F32, 4, 1, 1);      /* 16 */
    add_tensor(g, "blk.1.ffn_up_chexps.weight", GGML_TYPE_F16, 32, 5, 8);  /* 2560 */
    add_tensor(g, "blk.1.ffn_down_shexp.weight", GGML_TYPE_F16, 32, 5, 1); /* 320 */
    if (!tied) {
        add_tensor(g, "output.weight", GGML_TYPE_F16, 32, 10, 1); /* 640 */
    }
    return g;
}

static struct fb_catalog *open_ok(const char *path)
{
    struct fb_catalog *c = NULL;
    struct forebay_error err = {0};
    if (fb_catalog_open(path, false, &c, &err) != FOREBAY_OK) {
        fail_msg("%s (%s)", err.message, err.hint);
    }
    return c;
}

static void test_small_model(void **state)
{
    (void)state;
    const char *path = temp_path("small.gguf");
    struct gguf_context *g = small_model(false);
    write_model(g, path);
    struct fb_catalog *c = open_ok(path);

    assert_string_equal(c->arch, "tiny");
    assert_string_equal(c->name, "A tiny model");
    assert_int_equal(c->n_files, 1);
    assert_int_equal(c->n_tensors, 9);
    assert_int_equal(c->n_layer, 2);
    assert_int_equal(c->n_expert, 4);
    assert_int_equal(c->n_expert_used, 2);
    assert_int_equal(c->tensor_bytes, 1280 + 128 + 512 + 216 + 48 + 16 + 2560 + 320 + 640);
    assert_int_equal(c->parameters, 320 + 32 + 128 + 384 + 12 + 4 + 1280 + 160 + 320);
    assert_int_equal(c->file_bytes, gguf_get_meta_size(g) + data_size(g));

    const struct fb_tensor *up = &c->tensors[3];
    assert_string_equal(up->name, "blk.0.ffn_up_exps.weight");
    assert_int_equal(up->type, GGML_TYPE_Q4_0);
    assert_int_equal(up->role, FB_ROLE_EXPERT_UP);
    assert_int_equal(up->layer, 0);
    assert_int_equal(up->n_dims, 3);
    assert_int_equal(up->n_expert, 4);
    assert_int_equal(up->expert_bytes, 54);
    assert_int_equal(up->offset, gguf_get_meta_size(g) + 1280 + 128 + 512);
    assert_true(up->matrix);
    assert_int_equal(c->tensors[4].n_expert, 4);
    assert_int_equal(c->tensors[4].expert_bytes, 12);
    assert_false(c->tensors[4].matrix);
    assert_int_equal(c->tensors[5].n_expert, 4);
    assert_int_equal(c->tensors[6].n_expert, 8);
    assert_int_equal(c->tensors[1].n_dims, 1);
    assert_false(c->tensors[1].matrix);

    for (int i = 0; i < c->n_tensors; i++) {
        assert_int_equal(fb_catalog_find(c, c->tensors[i].name), i);
    }
    assert_int_equal(fb_catalog_find(c, "blk.0.ffn_up_exps"), -1);
    assert_int_equal(fb_catalog_find(c, ""), -1);

    /* one row of the embedding, 2 of 4 experts, 2 of 8 chunks, and everything else */
    assert_int_equal(
        fb_catalog_bytes_per_token(c), 128 + 128 + 512 + 108 + 24 + 8 + 640 + 320 + 640);
    fb_catalog_free(c);
    gguf_free(g);

    g = small_model(true);
    write_model(g, path);
    c = open_ok(path);
    assert_int_equal(fb_catalog_bytes_per_token(c), 1280 + 128 + 512 + 108 + 24 + 8 + 640 + 320);
    fb_catalog_free(c);
    gguf_free(g);
}

/* A file with missing keys, or keys of the wrong type, is not refused. */
static void test_odd_keys(void **state)
{
    (void)state;
    static const int32_t used[] = {1, 3, -1, 2};
    const char *path = temp_path("odd.gguf");
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", "odd");
    gguf_set_val_f32(g, "odd.block_count", 7.0f);
    gguf_set_val_str(g, "odd.expert_count", "many");
    gguf_set_arr_data(g, "odd.expert_used_count", GGUF_TYPE_INT32, used, 4);
    gguf_set_val_u8(g, "general.name", 1);
    write_model(g, path);
    struct fb_catalog *c = open_ok(path);
    assert_string_equal(c->name, "");
    assert_int_equal(c->n_tensors, 0);
    assert_int_equal(c->n_layer, 0);
    assert_int_equal(c->n_expert, 0);
    assert_int_equal(c->n_expert_used, 3);
    assert_int_equal(fb_catalog_bytes_per_token(c), 0);
    fb_catalog_free(c);
    gguf_free(g);
}

/* --- The shared models ---------------------------------------------------------------------- */

/* Compares one file of the model with gguf.h's own reading. Returns the number of its tensors. */
static int compare_with_gguf(const struct fb_catalog *c, int file, int first)
{
    struct ggml_context *shapes = NULL;
    struct gguf_init_params params = {.no_alloc = true, .ctx = &shapes};
    struct gguf_context *g = gguf_init_from_file(c->files[file]->path, params);
    assert_non_null(g);
    int n = (int)gguf_get_n_tensors(g);
    for (int i = 0; i < n; i++) {
        const struct fb_tensor *t = &c->tensors[first + i];
        const struct ggml_tensor *s = ggml_get_tensor(shapes, t->name);
        assert_string_equal(t->name, gguf_get_tensor_name(g, i));
        assert_non_null(s);
        assert_int_equal(t->type, s->type);
        assert_memory_equal(t->ne, s->ne, sizeof t->ne);
        assert_int_equal(t->n_dims, ggml_n_dims(s));
        assert_int_equal(t->bytes, ggml_nbytes(s));
        assert_int_equal(t->offset, gguf_get_data_offset(g) + gguf_get_tensor_offset(g, i));
        assert_int_equal(t->file, file);
        assert_true(t->offset + t->bytes <= c->files[file]->size);
    }
    ggml_free(shapes);
    gguf_free(g);
    return n;
}

static void check_experts(const struct fb_catalog *c)
{
    for (int i = 0; i < c->n_tensors; i++) {
        const struct fb_tensor *t = &c->tensors[i];
        bool stacked = strstr(t->name, "_exps.") != NULL;
        if (stacked) {
            assert_int_equal(t->n_expert, c->n_expert);
            assert_int_equal(t->expert_bytes * (uint64_t)t->n_expert, t->bytes);
            assert_true(t->layer >= 0 && t->layer < c->n_layer);
        } else {
            assert_int_equal(t->n_expert, 0);
        }
        if (t->role == FB_ROLE_OTHER) {
            assert_non_null(strstr(t->name, "rope_"));
        }
    }
}

static void test_shared_models(void **state)
{
    (void)state;
    struct model_list list;
    find_models(&list);
    for (int m = 0; m < list.n; m++) {
        print_message("%s\n", list.path[m]);
        struct fb_catalog *c = open_ok(list.path[m]);
        int n = 0;
        uint64_t bytes = 0;
        for (int file = 0; file < c->n_files; file++) {
            n += compare_with_gguf(c, file, n);
        }
        assert_int_equal(n, c->n_tensors);
        for (int i = 0; i < n; i++) {
            assert_int_equal(fb_catalog_find(c, c->tensors[i].name), i);
            bytes += c->tensors[i].bytes;
        }
        assert_int_equal(bytes, c->tensor_bytes);
        assert_true(strstr(list.path[m], "-moe") ? c->n_expert > 0 : c->n_expert == 0);
        assert_true(c->n_expert_used <= c->n_expert);
        check_experts(c);
        uint64_t touched = fb_catalog_bytes_per_token(c);
        assert_true(touched > 0 && touched <= bytes);
        assert_int_equal(fb_catalog_check_files(c, NULL), FOREBAY_OK);
        fb_catalog_free(c);
    }
    free_models(&list);
}

/* The split set holds the same model as the single file. */
static void test_split_equals_single(void **state)
{
    (void)state;
    struct fb_catalog *one = open_ok(shared_file("models/stories260K-moe8.gguf"));
    struct fb_catalog *split =
        open_ok(shared_file("models/split/stories260K-moe8-00001-of-00003.gguf"));
    assert_int_equal(split->n_files, 3);
    assert_int_equal(split->n_tensors, one->n_tensors);
    assert_int_equal(split->parameters, one->parameters);
    assert_int_equal(split->tensor_bytes, one->tensor_bytes);
    assert_string_equal(split->arch, one->arch);
    assert_int_equal(split->n_expert, 8);
    assert_int_equal(fb_catalog_bytes_per_token(split), fb_catalog_bytes_per_token(one));
    for (int i = 0; i < one->n_tensors; i++) {
        const struct fb_tensor *a = &one->tensors[i];
        int j = fb_catalog_find(split, a->name);
        assert_true(j >= 0);
        const struct fb_tensor *b = &split->tensors[j];
        assert_int_equal(a->bytes, b->bytes);
        char *x = malloc(a->bytes), *y = malloc(b->bytes);
        assert_int_equal(fb_file_read(one->files[0], x, a->bytes, a->offset, NULL), FOREBAY_OK);
        assert_int_equal(
            fb_file_read(split->files[b->file], y, b->bytes, b->offset, NULL), FOREBAY_OK);
        assert_memory_equal(x, y, a->bytes);
        free(x);
        free(y);
    }
    fb_catalog_free(one);
    fb_catalog_free(split);
}

/* --- Files that cannot be opened
 * ------------------------------------------------------------------- */

/* Opening fails with `status`; message and hint contain these parts. */
static void expect_failure(
    const char *path, enum forebay_status status, const char *message, const char *hint)
{
    struct fb_catalog *c = (struct fb_catalog *)&c; /* must stay untouched */
    struct fb_catalog *before = c;
    struct forebay_error err = {0};
    enum forebay_status got = fb_catalog_open(path, false, &c, &err);
    print_message("%s | %s\n", err.message, err.hint);
    assert_int_equal(got, status);
    assert_int_equal(err.status, status);
    assert_ptr_equal(c, before);
    assert_non_null(strstr(err.message, message));
    assert_non_null(strstr(err.hint, hint));
    assert_int_equal(fb_catalog_open(path, false, &c, NULL), status);
}

static void test_not_a_model(void **state)
{
    (void)state;
    char message[PATH_MAX + 64];
    expect_failure(temp_dir(), FOREBAY_E_IO, "directory", "");
    expect_failure(temp_path("nothing.gguf"), FOREBAY_E_IO, "nothing.gguf", "");
    expect_failure("", FOREBAY_E_IO, "", "");
    expect_failure("/dev/null", FOREBAY_E_IO, "/dev/null", "");
    const char *path = temp_path("text.gguf");
    write_file(path, "", 0);
    snprintf(message, sizeof message, "%s is empty", path);
    expect_failure(path, FOREBAY_E_FORMAT, message, "GGUF");
    write_file(path, "abc", 3);
    expect_failure(path, FOREBAY_E_FORMAT, "is not a GGUF file", "GGUF");
    write_file(path, "Once upon a time there was a little girl", 40);
    expect_failure(path, FOREBAY_E_FORMAT, "is not a GGUF file", "GGUF");
    write_file(path, "GGUF", 4);
    expect_failure(path, FOREBAY_E_FORMAT, "truncated", "again");
    write_file(path, "GGUF\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    expect_failure(path, FOREBAY_E_FORMAT, "version 1", "Convert");
    write_file(path, "GGUF\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    expect_failure(path, FOREBAY_E_FORMAT, "version 4", "later");
    write_file(path, "GGUF\0\0\0\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    expect_failure(path, FOREBAY_E_FORMAT, "version", "Big-endian");
}

static void test_unreadable(void **state)
{
    (void)state;
    const char *path = temp_path("secret.gguf");
    struct gguf_context *g = small_model(false);
    write_model(g, path);
    gguf_free(g);
    assert_int_equal(chmod(path, 0), 0);
    bool root = geteuid() == 0;
    if (root && seteuid(65534)) {
        skip();
    }
    expect_failure(path, FOREBAY_E_IO, strerror(EACCES), "permissions");
    if (root) {
        assert_int_equal(seteuid(0), 0);
    }
}

/* A copy truncated at any byte is refused; inside the data the message says how much is missing. */
static void test_truncated(void **state)
{
    (void)state;
    const char *whole = temp_path("whole.gguf"), *cut = temp_path("cut.gguf");
    struct gguf_context *g = small_model(false);
    write_model(g, whole);
    size_t header = gguf_get_meta_size(g), size;
    gguf_free(g);
    char *bytes = read_whole(whole, &size);
    for (size_t n = 0; n < size; n += n < header ? 1 : 97) {
        struct fb_catalog *c;
        struct forebay_error err = {0};
        write_file(cut, bytes, n);
        assert_int_equal(fb_catalog_open(cut, false, &c, &err), FOREBAY_E_FORMAT);
        assert_true(err.message[0] && err.hint[0]);
    }
    write_file(cut, bytes, size - 1);
    expect_failure(cut, FOREBAY_E_FORMAT, "truncated: 1 bytes", "again");
    write_file(cut, bytes, header);
    char message[64];
    snprintf(message, sizeof message, "truncated: %zu bytes", size - header);
    expect_failure(cut, FOREBAY_E_FORMAT, message, "again");
    write_file(cut, bytes, size);
    fb_catalog_free(open_ok(cut));
    free(bytes);
}

static void test_file_changes(void **state)
{
    (void)state;
    const char *path = temp_path("changes.gguf");
    struct gguf_context *g = small_model(false);
    write_model(g, path);
    gguf_free(g);
    struct fb_catalog *c = open_ok(path);
    assert_int_equal(fb_catalog_check_files(c, NULL), FOREBAY_OK);
    assert_int_equal(truncate(path, 100), 0);
    struct forebay_error err = {0};
    assert_int_equal(fb_catalog_check_files(c, &err), FOREBAY_E_IO);
    assert_non_null(strstr(err.message, path));
    fb_catalog_free(c);
}

/* --- Split sets ------------------------------------------------------------------------------ */

/* Writes part `no`: with the keys when `keys`, and one tensor. */
static const char *write_part(
    const char *prefix, int no, int own_no, int own_count, int n_tensors, const char *tensor)
{
    char name[64];
    snprintf(name, sizeof name, "%s-%05d-of-00003.gguf", prefix, no + 1);
    const char *path = temp_path(name);
    struct gguf_context *g = gguf_init_empty();
    if (no == 0) {
        gguf_set_val_str(g, "general.architecture", "tiny");
        gguf_set_val_u32(g, "tiny.block_count", 2);
    }
    if (own_no >= 0) {
        gguf_set_val_u16(g, "split.no", (uint16_t)own_no);
        gguf_set_val_u16(g, "split.count", (uint16_t)own_count);
        gguf_set_val_i32(g, "split.tensors.count", n_tensors);
    }
    add_tensor(g, tensor, GGML_TYPE_F32, 32, 4, 1);
    write_model(g, path);
    gguf_free(g);
    return path;
}

static void test_split_errors(void **state)
{
    (void)state;
    const char *first = write_part("m", 0, 0, 3, 3, "a.weight");
    const char *second = write_part("m", 1, 1, 3, 3, "b.weight");
    const char *third = write_part("m", 2, 2, 3, 3, "c.weight");
    struct fb_catalog *c = open_ok(first);
    assert_int_equal(c->n_tensors, 3);
    assert_int_equal(c->n_layer, 2);
    assert_int_equal(c->tensors[2].file, 2);
    assert_string_equal(c->files[2]->path, third);
    fb_catalog_free(c);

    expect_failure(second, FOREBAY_E_FORMAT, "is part 2 of 3", "m-00001-of-00003.gguf");
    const char *renamed = temp_path("renamed.gguf");
    assert_int_equal(rename(second, renamed), 0);
    expect_failure(renamed, FOREBAY_E_FORMAT, "is part 2 of 3", "first file");
    expect_failure(first, FOREBAY_E_IO, second, "all parts");
    assert_int_equal(rename(first, second), 0);
    expect_failure(
        second, FOREBAY_E_FORMAT, "its name does not say so", "NAME-00001-of-00003.gguf");

    write_part("m", 0, 0, 3, 3, "a.weight");
    write_part("m", 1, -1, 0, 0, "b.weight");
    expect_failure(first, FOREBAY_E_FORMAT, second, "all parts");
    write_part("m", 1, 2, 3, 3, "b.weight");
    expect_failure(first, FOREBAY_E_FORMAT, "part 3 of 3, not part 2", "all parts");
    write_part("m", 1, 1, 4, 4, "b.weight");
    expect_failure(first, FOREBAY_E_FORMAT, "part 2 of 4", "all parts");
    write_part("m", 1, 1, 3, 3, "a.weight");
    expect_failure(first, FOREBAY_E_FORMAT, "both hold tensor 'a.weight'", "all parts");
    write_part("m", 1, 1, 3, 3, "b.weight");
    write_part("m", 0, 0, 3, 4, "a.weight");
    expect_failure(first, FOREBAY_E_FORMAT, "hold 3 tensors, not 4", "all parts");
    write_part("m", 0, 0, 3, 3, "a.weight");
    assert_int_equal(truncate(second, 300), 0);
    expect_failure(first, FOREBAY_E_FORMAT, second, "again");
    write_part("m", 1, 1, 3, 3, "b.weight");
    fb_catalog_free(open_ok(first));
}

/* --- Values that llama.cpp would abort on --------------------------------------------------- */

static void expect_contradiction(struct gguf_context *g, const char *message)
{
    const char *path = temp_path("values.gguf");
    write_model(g, path);
    struct fb_catalog *c = open_ok(path);
    struct forebay_error err = {0};
    enum forebay_status status = fb_catalog_check_runnable(c, &err);
    assert_int_equal(status, message ? FOREBAY_E_FORMAT : FOREBAY_OK);
    assert_non_null(strstr(err.message, message ? message : ""));
    fb_catalog_free(c);
}

static void test_contradictions(void **state)
{
    (void)state;
    struct gguf_context *g = small_model(false);
    expect_contradiction(g, NULL);
    gguf_set_val_u32(g, "tiny.expert_used_count", 5);
    expect_contradiction(g, "more experts than the model has (5)");
    gguf_set_val_u32(g, "tiny.expert_used_count", 0);
    expect_contradiction(g, "none of its experts");
    gguf_set_val_u32(g, "tiny.expert_used_count", 4);
    gguf_set_val_u32(g, "tiny.expert_group_count", 4);
    expect_contradiction(g, "groups");
    gguf_set_val_u32(g, "tiny.expert_group_count", 2);
    gguf_set_val_u32(g, "tiny.nextn_predict_layers", 3);
    expect_contradiction(g, "next-token-prediction layers");
    gguf_set_val_u32(g, "tiny.nextn_predict_layers", 2);
    gguf_set_arr_str(g, "tokenizer.ggml.tokens", NULL, 0);
    expect_contradiction(g, "vocabulary");
    gguf_remove_key(g, "tokenizer.ggml.tokens");
    expect_contradiction(g, NULL);
    gguf_set_val_u32(g, "tiny.block_count", 0);
    expect_contradiction(g, "no layers");
    gguf_free(g);
}

/* --- The public view ------------------------------------------------------------------------- */

static void test_public(void **state)
{
    (void)state;
    const char *path = temp_path("public.gguf");
    struct gguf_context *g = small_model(false);
    write_model(g, path);
    struct forebay_file *file = NULL;
    assert_int_equal(forebay_file_open(path, &file, NULL), FOREBAY_OK);
    struct forebay_file_info info;
    forebay_file_describe(file, &info);
    assert_string_equal(info.path, path);
    assert_string_equal(info.name, "A tiny model");
    assert_string_equal(info.arch, "tiny");
    assert_int_equal(info.n_tensors, 9);
    assert_int_equal(info.n_expert_used, 2);
    assert_int_equal(info.tensor_bytes, 5720);
    struct forebay_tensor_info t;
    forebay_file_tensor(file, 3, &t);
    assert_string_equal(t.name, "blk.0.ffn_up_exps.weight");
    assert_string_equal(t.type, "Q4_0");
    assert_string_equal(t.role, "expert up");
    assert_string_equal(t.file, path);
    assert_int_equal(t.n_dims, 3);
    assert_int_equal(t.ne[2], 4);
    assert_int_equal(t.expert_bytes, 54);
    assert_int_equal(t.offset, gguf_get_meta_size(g) + 1920);
    forebay_file_free(file);
    forebay_file_free(NULL);
    assert_int_equal(forebay_file_open(temp_path("none"), &file, NULL), FOREBAY_E_IO);
    gguf_free(g);
}

/* The header of a model of a trillion parameters, over a sparse file, opens at once. */
static void test_large_header(void **state)
{
    (void)state;
    const char *path = temp_path("large.gguf");
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", "tiny");
    for (int layer = 0; layer < 120; layer++) {
        for (int i = 0; i < 30; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.part_%d_exps.weight", layer, i);
            add_tensor(g, name, GGML_TYPE_Q4_K, 7168, 256, 160);
        }
    }
    size_t size = gguf_get_meta_size(g);
    char *header = malloc(size);
    gguf_get_meta_data(g, header);
    write_file(path, header, size);
    assert_int_equal(truncate(path, (off_t)(size + data_size(g))), 0);
    uint64_t start = fb_now_ns();
    struct fb_catalog *c = open_ok(path);
    double seconds = (double)(fb_now_ns() - start) * 1e-9;
    print_message(
        "%d tensors, %.0f GB: %.3f s\n", c->n_tensors, (double)c->file_bytes * 1e-9, seconds);
    assert_true(c->parameters > 1000000000000);
    assert_true(seconds < 1); /* 0.03 s without sanitizers */
    fb_catalog_free(c);
    free(header);
    gguf_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_split_names),
        cmocka_unit_test(test_small_model),
        cmocka_unit_test(test_odd_keys),
        cmocka_unit_test(test_shared_models),
        cmocka_unit_test(test_split_equals_single),
        cmocka_unit_test(test_not_a_model),
        cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_file_changes),
        cmocka_unit_test(test_split_errors),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_public),
        cmocka_unit_test(test_large_header),
    };
    return cmocka_run_group_tests(tests, NULL, temp_remove);
}
