/*
 * test_shuffle.c - shuffles of llama.cpp's own layouts, of invented layouts that only rearrange
 * bits, and of invented ones that do not, for which there must be none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "backend/form.h"
#include "backend/shuffle.h"
#include "base/error.h"
#include "engine/libs.h"
#include "ggml-backend-impl.h"

#define COLUMNS 1024
#define ROWS    192

/* --- llama.cpp's layouts -------------------------------------------------------------------- */

/* Unpacks a unit of random bytes with the shuffle and without. */
static void check_unit(const struct fb_form *form)
{
    size_t n =
        ggml_row_size(form->layout.type, form->layout.unit_ne[0]) * (size_t)form->layout.unit_ne[1];
    /* A layout may need more than the file. */
    size_t form_bytes = form->layout.unit_bytes > n ? form->layout.unit_bytes : n;
    unsigned char *raw = malloc(n), *ours = calloc(form_bytes, 1), *theirs = calloc(form_bytes, 1);
    struct fb_form plain = *form;
    plain.shuffle = NULL;
    struct fb_raw_unit unit = {form, raw, ours, n}, by_layout = {&plain, raw, theirs, n};
    for (size_t i = 0; i < n; i++) {
        raw[i] = (unsigned char)((i * 2654435761u) >> 13 ^ i >> 3);
    }
    fb_form_unpack(&unit);
    fb_form_unpack(&by_layout);
    if (memcmp(ours, theirs, form_bytes) != 0) {
        fail_msg("%s, %lld x %lld", ggml_type_name(form->layout.type),
            (long long)form->layout.unit_ne[0], (long long)form->layout.unit_ne[1]);
    }
    free(raw);
    free(ours);
    free(theirs);
}

/* The form of a matrix that llama.cpp would repack; false if it would not. */
static bool form_of(struct fb_form *form, enum ggml_type type, int64_t columns, int64_t rows)
{
    struct ggml_init_params params = {.mem_size = 8 * ggml_tensor_overhead(), .no_alloc = true};
    struct ggml_context *ctx = ggml_init(params);
    struct ggml_tensor *weight = ggml_new_tensor_2d(ctx, type, columns, rows);
    struct ggml_tensor *input = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, columns, 1);
    bool chosen = fb_form_choose(form, ggml_mul_mat(ctx, weight, input), weight, true, false);
    ggml_free(ctx);
    return chosen && form->layout.buft;
}

static void test_every_layout_of_this_processor_is_learnt(void **state)
{
    (void)state;
    int n = 0;
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        int64_t block = ggml_blck_size((enum ggml_type)type);
        const int64_t shapes[][2] = {{2 * block, 64}, {COLUMNS, ROWS}, {3 * 256, 32}, {5 * 256, 8},
            {7 * 256, 72}, {block, 32}};
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes && block > 0; i++) {
            struct fb_form form;
            if (ggml_is_quantized((enum ggml_type)type) && shapes[i][0] % block == 0 &&
                form_of(&form, (enum ggml_type)type, shapes[i][0], shapes[i][1])) {
                if (fb_layout_is_interleaved(&form.layout)) {
                    assert_non_null(form.shuffle);
                    n++;
                }
                check_unit(&form);
                fb_form_release(&form);
            }
        }
    }
    print_message("# %d units of repacked layouts\n", n);
}

static void test_a_kind_is_learnt_once(void **state)
{
    (void)state;
    struct fb_form a, b, c;
    if (!form_of(&a, GGML_TYPE_Q4_0, COLUMNS, 64) || !a.shuffle) {
        skip(); /* not repacked by this processor, or for its matrix unit */
    }
    assert_true(form_of(&b, GGML_TYPE_Q4_0, COLUMNS, 128));
    assert_true(form_of(&c, GGML_TYPE_Q4_0, COLUMNS / 2, 64));
    assert_ptr_equal(a.shuffle, b.shuffle);
    assert_ptr_not_equal(a.shuffle, c.shuffle);
    fb_form_release(&a);
    fb_form_release(&b);
    fb_form_release(&c);
}

/* --- Invented layouts ------------------------------------------------------------------------- */

/* Makes one tile: `in` is the block of its first row, and the next rows' are `stride` apart. */
typedef void (*make_tile)(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block);

static struct {
    make_tile make;
    int rows;
    bool by_column; /* all tiles of a column of blocks, then those of the next */
} invented;

static void invented_set(
    ggml_backend_buffer_t buffer, struct ggml_tensor *t, const void *data, size_t offset, size_t n)
{
    (void)buffer;
    assert_int_equal(offset, 0);
    assert_int_equal(n, ggml_nbytes(t));
    size_t bytes = ggml_type_size(t->type), row_bytes = t->nb[1];
    int64_t n_blocks = (int64_t)(row_bytes / bytes), n_groups = t->ne[1] / invented.rows;
    for (int64_t g = 0; g < n_groups; g++) {
        for (int64_t b = 0; b < n_blocks; b++) {
            int64_t tile = invented.by_column ? b * n_groups + g : g * n_blocks + b;
            invented.make((unsigned char *)t->data + (size_t)tile * bytes * (size_t)invented.rows,
                (const unsigned char *)data + (size_t)(g * invented.rows) * row_bytes +
                    (size_t)b * bytes,
                row_bytes, bytes, g * invented.rows, b);
        }
    }
}

static const char *repack_name(ggml_backend_buffer_type_t type)
{
    (void)type;
    return "CPU_REPACK";
}

static const char *other_name(ggml_backend_buffer_type_t type)
{
    (void)type;
    return "AMX";
}

static size_t larger(ggml_backend_buffer_type_t type, const struct ggml_tensor *t)
{
    (void)type;
    return ggml_nbytes(t) + 1;
}

/* A layout that makes tiles with `make`. Its `extra` is its own: no shuffle is known for it yet. */
static struct fb_layout invented_layout(
    struct ggml_backend_buffer_type *type, struct ggml_backend_buffer *buffer, make_tile make)
{
    static char extras[64];
    static int n;
    *type = (struct ggml_backend_buffer_type){.iface.get_name = repack_name};
    *buffer = (struct ggml_backend_buffer){.iface.set_tensor = invented_set, .buft = type};
    invented.make = make;
    assert_in_range(n, 0, 63);
    return (struct fb_layout){.buft = type,
        .type = GGML_TYPE_Q4_0,
        .unit_ne = {COLUMNS, ROWS, 1, 1},
        .buffer = buffer,
        .extra = &extras[n++]};
}

static bool is_learnt(make_tile make, int rows, bool by_column)
{
    struct ggml_backend_buffer_type type;
    struct ggml_backend_buffer buffer;
    invented.rows = rows;
    invented.by_column = by_column;
    struct fb_form form = {.layout = invented_layout(&type, &buffer, make)};
    form.shuffle = fb_shuffle_of(&form.layout);
    if (form.shuffle) {
        check_unit(&form);
    }
    return form.shuffle != NULL;
}

static void interleave(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    (void)row;
    (void)block;
    for (size_t i = 0; i < bytes; i++) {
        for (int r = 0; r < invented.rows; r++) {
            *out++ = in[(size_t)r * stride + i] ^ 0x5a;
        }
    }
}

static void swap_nibbles(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    interleave(out, in, stride, bytes, row, block);
    for (size_t i = 0; i < bytes * (size_t)invented.rows; i++) {
        out[i] = (unsigned char)(out[i] << 4 | out[i] >> 4);
    }
}

/* The bits of every third byte are reversed; the others stay together. */
static void with_holes(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    interleave(out, in, stride, bytes, row, block);
    for (size_t i = 0; i < bytes * (size_t)invented.rows; i += 3) {
        unsigned char back = 0;
        for (int k = 0; k < 8; k++) {
            back |= (unsigned char)((out[i] >> k & 1) << (7 - k));
        }
        out[i] = back;
    }
}

/* Bit k of each row's byte moves to byte k: eight by eight bits are transposed. */
static void transpose(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    (void)row;
    (void)block;
    memset(out, 0, 8 * bytes);
    for (size_t i = 0; i < bytes; i++) {
        for (int r = 0; r < 8; r++) {
            for (int k = 0; k < 8; k++) {
                out[8 * i + (size_t)k] |=
                    (unsigned char)((in[(size_t)r * stride + i] >> k & 1) << r);
            }
        }
    }
}

static void add_one(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    interleave(out, in, stride, bytes, row, block);
    for (size_t i = 0; i < bytes * (size_t)invented.rows; i++) {
        out[i]++;
    }
}

static void by_row(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    interleave(out, in, stride, bytes, row, block);
    out[0] ^= (unsigned char)row;
}

static void by_block(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    interleave(out, in, stride, bytes, row, block);
    out[0] ^= (unsigned char)(block >= 4); /* beyond the blocks of a sample */
}

static void from_next_block(unsigned char *out, const unsigned char *in, size_t stride,
    size_t bytes, int64_t row, int64_t block)
{
    interleave(out, in, stride, bytes, row, block);
    out[0] = block % 2 ? out[0] : in[bytes];
}

static void drop_a_bit(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    interleave(out, in, stride, bytes, row, block);
    out[3] |= 0x10;
}

static void copy_a_bit_if(unsigned char *out, const unsigned char *in, size_t stride, size_t bytes,
    int64_t row, int64_t block)
{
    interleave(out, in, stride, bytes, row, block);
    if (in[0] % 16 == 7 && in[1] % 16 != 7) { /* never so in the numbered bits */
        out[5] ^= 1;
    }
}

static void test_layouts_that_rearrange_bits_are_learnt(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 16; rows *= 2) {
        assert_true(is_learnt(interleave, rows, false));
        assert_true(is_learnt(swap_nibbles, rows, false));
        assert_true(is_learnt(with_holes, rows, false));
    }
    assert_true(is_learnt(transpose, 8, false));
}

static void test_layouts_that_do_not_are_not_learnt(void **state)
{
    (void)state;
    assert_false(is_learnt(interleave, 32, false)); /* too many rows */
    assert_false(is_learnt(interleave, 3, false));
    assert_false(is_learnt(interleave, 8, true));
    assert_false(is_learnt(add_one, 8, false));
    assert_false(is_learnt(by_row, 8, false));
    assert_false(is_learnt(by_block, 8, false));
    assert_false(is_learnt(from_next_block, 8, false));
    assert_false(is_learnt(drop_a_bit, 8, false));
    assert_false(is_learnt(copy_a_bit_if, 8, false));
}

static void test_layouts_that_cannot_be_shuffles_are_not_tried(void **state)
{
    (void)state;
    struct ggml_backend_buffer_type type;
    struct ggml_backend_buffer buffer;
    invented.rows = 8;
    invented.by_column = false;
    struct fb_layout layout = invented_layout(&type, &buffer, interleave);
    type.iface.get_name = other_name;
    assert_null(fb_shuffle_of(&layout));
    type.iface.get_name = repack_name;
    type.iface.get_alloc_size = larger;
    assert_null(fb_shuffle_of(&layout));
    type.iface.get_alloc_size = NULL;
    layout.unit_ne[2] = 2;
    assert_null(fb_shuffle_of(&layout));
    layout.unit_ne[2] = 1;
    layout.unit_ne[1] = ROWS + 1; /* not a whole number of tiles */
    assert_null(fb_shuffle_of(&layout));
    layout.unit_ne[1] = ROWS;
    assert_non_null(fb_shuffle_of(&layout));
    layout.buft = NULL; /* as stored */
    assert_null(fb_shuffle_of(&layout));
}

static int load_llama(void **state)
{
    (void)state;
    struct forebay_error err;
    return fb_libs_load(&err) == FOREBAY_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_layout_of_this_processor_is_learnt),
        cmocka_unit_test(test_a_kind_is_learnt_once),
        cmocka_unit_test(test_layouts_that_rearrange_bits_are_learnt),
        cmocka_unit_test(test_layouts_that_do_not_are_not_learnt),
        cmocka_unit_test(test_layouts_that_cannot_be_shuffles_are_not_tried),
    };
    return cmocka_run_group_tests_name("shuffle", tests, load_llama, NULL);
}
