/*
 * test_weights.c - claims become weights and groups: a hand-made catalogue for each case, random
 * catalogues for the invariants, and a synthetic model.
 */
#include "weights_fixture.h"

#include "model_files.h"
#include "synth/synth.h"

#include <signal.h>
#include <sys/wait.h>

static struct model m;

static int start_model(void **state)
{
    (void)state;
    random_state = 3;
    model_init(&m, 4096);
    return 0;
}

static int end_model(void **state)
{
    (void)state;
    model_close(&m);
    return 0;
}

/* --- One weight
 * -------------------------------------------------------------------------------- */

static void test_a_dense_weight_keeps_its_place_in_the_block(void **state)
{
    (void)state;
    add_dense(&m, 5000, false); /* at 4096 */
    add_dense(&m, 8192, false); /* at 9096: reaches into a third block */
    add_dense(&m, 1, false);    /* at 17288 */
    claim_all(&m);
    static const uint64_t delta[] = {0, 904, 904}, stride[] = {8192, 12288, 4096};
    for (int i = 0; i < 3; i++) {
        const struct fb_weight *w = &m.weights->weights[i];
        assert_int_equal(w->unpack, FB_UNPACK_DIRECT);
        assert_int_equal(w->group, -1);
        assert_int_equal(w->delta, delta[i]);
        assert_int_equal(w->stride, stride[i]);
        assert_int_equal(w->file_bytes, m.tensors[i].bytes);
        assert_int_equal(fb_weight_offset(m.weights, i, 0), m.tensors[i].offset);
    }
    assert_int_equal(m.weights->dense_bytes, 8192 + 12288 + 4096);
    assert_int_equal(m.weights->n_groups, 0);
    assert_int_equal(m.weights->expert_bytes, 0);
}

static void test_a_repacked_weight_has_room_for_its_form(void **state)
{
    (void)state;
    add_dense(&m, 5000, true);
    add_weight(&m, FB_ROLE_EXPERT_UP, 0, 4, 4096, true);
    claim_all(&m);
    for (int i = 0; i < 2; i++) {
        const struct fb_weight *w = &m.weights->weights[i];
        assert_int_equal(w->unpack, FB_UNPACK_REPACK);
        assert_int_equal(w->delta, 0);
        assert_int_equal(w->unit_bytes, 2 * w->file_bytes);
        assert_int_equal(w->stride, i == 0 ? 12288 : 8192);
    }
}

/* Experts of whole blocks all begin at the same offset in a block; others do not. */
static void test_experts_are_read_in_place_when_they_are_whole_blocks(void **state)
{
    (void)state;
    add_dense(&m, 100, false);
    int whole = add_weight(&m, FB_ROLE_EXPERT_GATE, 0, 4, 8192, false);
    int odd = add_weight(&m, FB_ROLE_EXPERT_UP, 0, 4, 8193, false);
    claim_all(&m);
    assert_int_equal(m.weights->weights[whole].unpack, FB_UNPACK_DIRECT);
    assert_int_equal(m.weights->weights[whole].delta, 100);
    assert_int_equal(m.weights->weights[whole].stride, 12288);
    assert_int_equal(m.weights->weights[odd].unpack, FB_UNPACK_COPY);
    assert_int_equal(m.weights->weights[odd].delta, 0);
    assert_int_equal(m.weights->weights[odd].stride, 8256); /* the next multiple of 64 */
    assert_int_equal(m.weights->groups[0].slot_bytes, 12288 + 8256);
    assert_int_equal(m.weights->expert_bytes, 4 * (12288 + 8256));
}

/* As a device expects a stack: no gaps between slots, whatever that takes. */
static void test_packed_experts_have_no_gaps(void **state)
{
    (void)state;
    add_dense(&m, 4096, false);                                         /* ends at 8192 */
    int whole = add_weight(&m, FB_ROLE_EXPERT_GATE, 0, 4, 8192, false); /* aligned in the file */
    int odd = add_weight(&m, FB_ROLE_EXPERT_UP, 0, 4, 8193, false);
    int later = add_weight(&m, FB_ROLE_EXPERT_DOWN, 0, 4, 8192, false); /* 4 bytes off */
    for (int i = 0; i < m.catalog.n_tensors; i++) {
        m.claims[i].packed = true;
    }
    claim_all(&m);
    static const uint64_t unit[] = {8192, 8193, 8192};
    for (int i = 0; i < 3; i++) {
        const struct fb_weight *w = &m.weights->weights[whole + i];
        assert_int_equal(w->unpack, i == 0 ? FB_UNPACK_DIRECT : FB_UNPACK_COPY);
        assert_int_equal(w->stride, unit[i]);
        assert_true(fb_weight_is_packed(w, w->stride));
        assert_false(fb_weight_is_packed(w, w->stride + 64));
    }
    assert_int_equal(m.weights->groups[0].slot_bytes, 8192 + 8193 + 8192);
    assert_int_equal(m.weights->weights[0].stride, 4096); /* dense ones are as always */
    assert_true(odd == whole + 1 && later == whole + 2);
}

static void test_only_stacked_expert_matrices_are_experts(void **state)
{
    (void)state;
    for (int role = 0; role < FB_ROLE_COUNT; role++) {
        struct fb_tensor t = {.role = (enum fb_role)role, .n_expert = 8, .matrix = true};
        bool expert = role == FB_ROLE_EXPERT_GATE || role == FB_ROLE_EXPERT_UP ||
                      role == FB_ROLE_EXPERT_DOWN || role == FB_ROLE_EXPERT_GATE_UP;
        assert_int_equal(fb_weights_is_expert(&t), expert);
        t.matrix = false; /* a bias */
        assert_false(fb_weights_is_expert(&t));
        t.matrix = true;
        t.n_expert = 1;
        assert_false(fb_weights_is_expert(&t));
        t.n_expert = 0;
        assert_false(fb_weights_is_expert(&t));
    }
}

/* A stack of one expert is read as a whole. */
static void test_a_stack_of_one_is_dense(void **state)
{
    (void)state;
    add_weight(&m, FB_ROLE_EXPERT_UP, 0, 1, 5000, false);
    add_weight(&m, FB_ROLE_ROUTER, 0, 8, 5000, false);
    claim_all(&m);
    assert_int_equal(m.weights->n_groups, 0);
    assert_int_equal(m.weights->weights[0].file_bytes, 5000);
    assert_int_equal(m.weights->weights[1].file_bytes, 8 * 5000);
}

/* --- Groups
 * ------------------------------------------------------------------------------------ */

/* Layers in the file as 2, 0, 1: groups are by layer, parts and weights as in the file. */
static void test_groups_are_in_the_order_of_layers(void **state)
{
    (void)state;
    static const int layers[] = {2, 0, 1};
    for (int k = 0; k < 3; k++) {
        add_dense(&m, 100, false);
        add_weight(&m, FB_ROLE_EXPERT_DOWN, layers[k], 4, 4096, false);
        add_weight(&m, FB_ROLE_EXPERT_GATE_UP, layers[k], 4, 100, false);
    }
    claim_all(&m);
    assert_int_equal(m.weights->n_groups, 3);
    for (int g = 0; g < 3; g++) {
        const struct fb_group *group = &m.weights->groups[g];
        assert_int_equal(group->layer, g);
        assert_int_equal(group->n_parts, 2);
        for (int p = 0; p < 2; p++) {
            const struct fb_weight *w = &m.weights->weights[group->weight[p]];
            const struct fb_tensor *t = &m.tensors[w->tensor];
            assert_int_equal(w->group, g);
            assert_int_equal(w->part, p);
            assert_int_equal(t->layer, g);
            assert_int_equal(t->role, p == 0 ? FB_ROLE_EXPERT_DOWN : FB_ROLE_EXPERT_GATE_UP);
        }
    }
}

static void test_claims_in_any_order_give_the_same_weights(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        enum fb_role role = i % 2 ? FB_ROLE_EXPERT_UP : FB_ROLE_ATTENTION;
        add_weight(&m, role, i / 3, i % 2 ? 4 : 0, 1 + rnd_below(9000), i % 5 == 0);
    }
    claim_all(&m);
    struct fb_claim claims[20];
    memcpy(claims, m.claims, sizeof claims);
    for (size_t i = 19; i > 0; i--) {
        size_t k = rnd_below(i + 1);
        struct fb_claim c = claims[i];
        claims[i] = claims[k];
        claims[k] = c;
    }
    assert_memory_not_equal(claims, m.claims, sizeof claims);
    struct fb_weights *shuffled = fb_weights_new(&m.catalog, claims, 20);
    for (int i = 0; i < 20; i++) {
        const struct fb_weight *a = &m.weights->weights[i], *b = &shuffled->weights[i];
        assert_int_equal(a->tensor, i);
        assert_int_equal(b->tensor, i);
        assert_int_equal(a->group, b->group);
        assert_int_equal(a->part, b->part);
        assert_int_equal(a->stride, b->stride);
        assert_int_equal(a->unpack, b->unpack);
    }
    assert_int_equal(shuffled->n_groups, m.weights->n_groups);
    fb_weights_free(shuffled);
}

/* Not every tensor is claimed: the claimed ones keep their index in the catalogue. */
static void test_unclaimed_tensors_are_left_out(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        add_weight(&m, FB_ROLE_EXPERT_UP, i / 2, 4, 4096, false);
    }
    struct fb_claim claims[] = {m.claims[5], m.claims[2]};
    m.weights = fb_weights_new(&m.catalog, claims, 2);
    assert_int_equal(m.weights->n_weights, 2);
    assert_int_equal(m.weights->weights[0].tensor, 2);
    assert_int_equal(m.weights->weights[1].tensor, 5);
    assert_int_equal(m.weights->n_groups, 2);
    assert_int_equal(m.weights->groups[1].n_parts, 1);
    assert_int_equal(m.weights->groups[1].layer, 2);
}

static void test_a_layer_with_two_numbers_of_experts_has_two_groups(void **state)
{
    (void)state;
    static const int counts[] = {16, 4, 16, 4};
    for (int i = 0; i < 4; i++) {
        add_weight(&m, FB_ROLE_EXPERT_UP, 7, counts[i], 4096, false);
    }
    claim_all(&m);
    assert_int_equal(m.weights->n_groups, 2);
    for (int g = 0; g < 2; g++) {
        const struct fb_group *group = &m.weights->groups[g];
        assert_int_equal(group->n_expert, counts[g]);
        assert_int_equal(group->n_parts, 2);
        assert_int_equal(group->weight[0], g);
        assert_int_equal(group->weight[1], g + 2);
    }
    assert_int_equal(m.weights->expert_bytes, 2 * 4096 * (16 + 4));
}

static void test_more_parts_than_a_group_has_make_a_second_group(void **state)
{
    (void)state;
    for (int i = 0; i < FB_MAX_PARTS + 2; i++) {
        add_weight(&m, FB_ROLE_EXPERT_UP, 0, 4, 4096, false);
    }
    claim_all(&m);
    assert_int_equal(m.weights->n_groups, 2);
    assert_int_equal(m.weights->groups[0].n_parts, FB_MAX_PARTS);
    assert_int_equal(m.weights->groups[1].n_parts, 2);
    assert_int_equal(m.weights->weights[FB_MAX_PARTS].group, 1);
    assert_int_equal(m.weights->weights[FB_MAX_PARTS].part, 0);
}

static void test_no_claims_are_no_weights(void **state)
{
    (void)state;
    add_dense(&m, 100, false);
    m.weights = fb_weights_new(&m.catalog, NULL, 0);
    assert_int_equal(m.weights->n_weights, 0);
    assert_int_equal(m.weights->n_groups, 0);
    assert_int_equal(m.weights->dense_bytes + m.weights->expert_bytes, 0);
    assert_int_equal(fb_weights_shared_stride(m.weights, 0), 0);
    fb_weights_free(NULL);
}

static void test_a_tensor_claimed_twice_is_a_bug(void **state)
{
    (void)state;
    add_dense(&m, 100, false);
    struct fb_claim twice[] = {m.claims[0], m.claims[0]};
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fclose(stderr);
        signal(SIGABRT, SIG_DFL);
        fb_weights_new(&m.catalog, twice, 2);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* --- Sizes
 * ------------------------------------------------------------------------------------- */

/* Reads rely on this: every unit fits into its envelope; a unit read in place fits into its stride
 * at its delta; and its stride is a whole number of blocks. */
static void check_unit(const struct fb_weights *ws, int weight, int expert)
{
    const struct fb_weight *w = &ws->weights[weight];
    uint64_t offset = fb_weight_offset(ws, weight, expert);
    uint64_t envelope = fb_io_envelope(offset, w->file_bytes);
    assert_true(envelope <= fb_weight_envelope(ws, weight));
    assert_true(w->delta + w->unit_bytes <= w->stride);
    if (w->unpack == FB_UNPACK_DIRECT) {
        assert_int_equal(fb_io_delta(offset), w->delta);
        assert_int_equal(w->stride % FB_BLOCK_BYTES, 0);
        assert_true(envelope <= w->stride);
    }
}

/* Units are contiguous in the file and fill their tensor. */
static void check_weight(const struct fb_weights *ws, int weight)
{
    const struct fb_weight *w = &ws->weights[weight];
    const struct fb_tensor *t = &ws->catalog->tensors[w->tensor];
    int n = w->group >= 0 ? ws->groups[w->group].n_expert : 1;
    uint64_t at = t->offset;
    for (int e = 0; e < n; e++) {
        assert_int_equal(fb_weight_offset(ws, weight, e), at);
        check_unit(ws, weight, e);
        at += w->file_bytes;
    }
    assert_int_equal(at, t->offset + t->bytes);
}

/* A slot of the shared pool has room for the part of any group. */
static void check_shared_strides(const struct fb_weights *ws)
{
    for (int p = 0; p < FB_MAX_PARTS; p++) {
        uint64_t shared = fb_weights_shared_stride(ws, p), widest = 0;
        bool direct = false;
        for (int i = 0; i < ws->n_weights; i++) {
            const struct fb_weight *w = &ws->weights[i];
            if (w->group >= 0 && w->part == p) {
                widest = fb_max(widest, w->stride);
                direct |= w->unpack == FB_UNPACK_DIRECT;
            }
        }
        assert_true(shared >= widest && shared < widest + (direct ? FB_BLOCK_BYTES : 1));
        assert_true(!direct || shared % FB_BLOCK_BYTES == 0);
    }
}

static void check_sums(const struct fb_weights *ws)
{
    uint64_t dense = 0, experts = 0;
    int n_parts = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        dense += ws->weights[i].group < 0 ? ws->weights[i].stride : 0;
    }
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        uint64_t slot = 0;
        for (int p = 0; p < group->n_parts; p++) {
            slot += ws->weights[group->weight[p]].stride;
            assert_int_equal(ws->weights[group->weight[p]].group, g);
            assert_int_equal(ws->weights[group->weight[p]].part, p);
        }
        assert_int_equal(group->slot_bytes, slot);
        experts += slot * (uint64_t)group->n_expert;
        n_parts += group->n_parts;
    }
    for (int i = 0; i < ws->n_weights; i++) {
        n_parts -= ws->weights[i].group >= 0;
    }
    assert_int_equal(n_parts, 0);
    assert_int_equal(ws->dense_bytes, dense);
    assert_int_equal(ws->expert_bytes, experts);
}

static void check_all(const struct fb_weights *ws)
{
    for (int i = 0; i < ws->n_weights; i++) {
        check_weight(ws, i);
    }
    check_shared_strides(ws);
    check_sums(ws);
}

static void test_units_fit_where_they_are_read(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++) {
        model_init(&m, rnd_below(20000));
        for (int i = 0; i < 30; i++) {
            uint64_t bytes = 1 + rnd_below(rnd() % 2 ? 30000 : 100);
            bytes = rnd() % 2 ? fb_round_up(bytes, FB_BLOCK_BYTES) : bytes;
            int n_expert = rnd() % 3 ? 2 + (int)rnd_below(6) : 0;
            add_weight(&m, FB_ROLE_EXPERT_UP, (int)rnd_below(6), n_expert, bytes, rnd() % 4 == 0);
        }
        claim_all(&m);
        check_all(m.weights);
        fb_weights_free(m.weights);
        m.weights = NULL;
    }
}

/* --- Files
 * ------------------------------------------------------------------------------------- */

static void test_a_weight_is_read_from_its_own_file(void **state)
{
    (void)state;
    struct fb_file parts[3];
    struct fb_file *files[] = {&parts[0], &parts[1], &parts[2]};
    for (int i = 0; i < 3; i++) {
        int t = add_dense(&m, 100, false);
        m.tensors[t].file = 2 - i;
    }
    m.catalog.files = files;
    m.catalog.n_files = 3;
    claim_all(&m);
    for (int i = 0; i < 3; i++) {
        assert_ptr_equal(fb_weight_file(m.weights, i), files[2 - i]);
    }
}

/* A whole model: each of its layers is a group of gate, up and down with all the experts. */
static void test_a_synthetic_mixture_of_experts(void **state)
{
    (void)state;
    struct fb_synth_shape shape;
    struct fb_catalog *catalog;
    struct forebay_error err = {0};
    fb_synth_shape_init(&shape);
    shape.arch = "olmoe";
    shape.layers = 3;
    shape.embd = 256;
    shape.experts = 4;
    assert_int_equal(fb_synth_random(&shape, temp_path("moe.gguf"), NULL, &err), FOREBAY_OK);
    assert_int_equal(fb_catalog_open(temp_path("moe.gguf"), false, &catalog, &err), FOREBAY_OK);
    int n = 0;
    struct fb_claim *claims = calloc((size_t)catalog->n_tensors, sizeof *claims);
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        uint64_t bytes = fb_weights_is_expert(t) ? t->expert_bytes : t->bytes;
        if (t->matrix) {
            claims[n++] = (struct fb_claim){.tensor = i, .unit_bytes = bytes};
        }
    }
    struct fb_weights *ws = fb_weights_new(catalog, claims, n);
    assert_int_equal(ws->n_weights, n);
    assert_int_equal(ws->n_groups, 3);
    for (int g = 0; g < 3; g++) {
        assert_int_equal(ws->groups[g].layer, g);
        assert_int_equal(ws->groups[g].n_expert, 4);
        assert_int_equal(ws->groups[g].n_parts, 3);
    }
    check_all(ws);
    fb_weights_free(ws);
    free(claims);
    fb_catalog_free(catalog);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start_model, end_model)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_dense_weight_keeps_its_place_in_the_block),
        TEST(test_a_repacked_weight_has_room_for_its_form),
        TEST(test_experts_are_read_in_place_when_they_are_whole_blocks),
        TEST(test_packed_experts_have_no_gaps),
        TEST(test_only_stacked_expert_matrices_are_experts),
        TEST(test_a_stack_of_one_is_dense),
        TEST(test_groups_are_in_the_order_of_layers),
        TEST(test_claims_in_any_order_give_the_same_weights),
        TEST(test_unclaimed_tensors_are_left_out),
        TEST(test_a_layer_with_two_numbers_of_experts_has_two_groups),
        TEST(test_more_parts_than_a_group_has_make_a_second_group),
        TEST(test_no_claims_are_no_weights),
        TEST(test_a_tensor_claimed_twice_is_a_bug),
        TEST(test_units_fit_where_they_are_read),
        TEST(test_a_weight_is_read_from_its_own_file),
        TEST(test_a_synthetic_mixture_of_experts),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, temp_remove);
}
