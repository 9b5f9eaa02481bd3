/*
 * test_offload.c - layers, experts and slots on a device: cases worked by hand, and properties over
 * many made-up models over all sizes of device.
 */
#include "weights_fixture.h"

#include "plan/device_slots.h"
#include "plan/offload.h"

/* Layer l: 100 + l bytes of dense weights, and experts of 1000 + l bytes when there are any. */
static void make_catalog(struct model *m, int n_layers, int n_expert, bool output)
{
    model_init(m, 0);
    m->catalog.n_layer = n_layers;
    m->catalog.n_expert = n_expert;
    add_weight(m, FB_ROLE_EMBEDDING, -1, 0, 5000, false);
    for (int l = 0; l < n_layers; l++) {
        add_weight(m, FB_ROLE_ATTENTION, l, 0, 60 + (uint64_t)l, false);
        add_weight(m, FB_ROLE_NORM, l, 0, 40, false);
        if (n_expert) {
            add_weight(m, FB_ROLE_EXPERT_UP, l, n_expert, (1000 + (uint64_t)l) / 4, false);
        }
    }
    add_weight(m, FB_ROLE_NORM, -1, 0, 7, false);
    if (output) {
        add_weight(m, FB_ROLE_OUTPUT, -1, 0, 3000, false);
    }
}

static void check(const struct fb_offload_plan *plan, bool output, int n_layers, int n_whole,
    uint64_t weights_bytes, uint64_t kv_bytes)
{
    assert_int_equal(plan->output, output);
    assert_int_equal(plan->n_layers, n_layers);
    assert_int_equal(plan->n_whole, n_whole);
    assert_int_equal(plan->weights_bytes, weights_bytes);
    assert_int_equal(plan->kv_bytes, kv_bytes);
    assert_int_equal(fb_offload_gpu_layers(plan), output ? n_layers + 1 : 0);
}

/* Three layers of 100, 101 and 102 bytes, each with 10 bytes of KV cache; 3007 bytes of output. */
static void test_dense_by_hand(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 3, 0, true);
    struct fb_offload_plan plan = fb_offload_make(&m.catalog, 30, 3006, 0);
    check(&plan, false, 0, 0, 0, 0);
    plan = fb_offload_make(&m.catalog, 30, 3007, 0);
    check(&plan, true, 0, 0, 3007, 0);
    plan = fb_offload_make(&m.catalog, 30, 3007 + 112, 0); /* the last layer goes first */
    check(&plan, true, 1, 0, 3109, 10);
    plan = fb_offload_make(&m.catalog, 30, 3007 + 112 + 110, 0);
    check(&plan, true, 1, 0, 3109, 10);
    plan = fb_offload_make(&m.catalog, 30, 3007 + 303 + 30, 0);
    check(&plan, true, 3, 3, 3310, 30);
    plan = fb_offload_make(&m.catalog, 30, 3007 + 303 + 30, 1); /* a byte is for something else */
    check(&plan, true, 2, 0, 3210, 20);
    plan = fb_offload_make(&m.catalog, 30, 100, 101);
    check(&plan, false, 0, 0, 0, 0);
}

/* Experts are offloaded last, and only when every layer is. */
static void test_experts_by_hand(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 2, 4, true);
    uint64_t dense = 3007 + 100 + 101;
    struct fb_offload_plan plan = fb_offload_make(&m.catalog, 0, dense - 1, 0);
    check(&plan, true, 1, 0, dense - 100, 0);
    plan = fb_offload_make(&m.catalog, 0, dense + 999, 0);
    check(&plan, true, 2, 0, dense, 0);
    plan = fb_offload_make(&m.catalog, 0, dense + 1000, 0);
    check(&plan, true, 2, 1, dense + 1000, 0);
    plan = fb_offload_make(&m.catalog, 0, dense + 2000, 0);
    check(&plan, true, 2, 2, dense + 2000, 0);
}

/* Without an output matrix, the embedding serves as one: the device holds a copy. */
static void test_tied_output(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 1, 0, false);
    struct fb_offload_plan plan = fb_offload_make(&m.catalog, 0, 5006, 0);
    check(&plan, false, 0, 0, 0, 0);
    plan = fb_offload_make(&m.catalog, 0, 5007, 0);
    check(&plan, true, 0, 0, 5007, 0);
}

static void test_odd_catalogues(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 0, 0, true);
    struct fb_offload_plan plan = fb_offload_make(&m.catalog, 100, 1 << 20, 0);
    check(&plan, true, 0, 0, 3007, 0);
    add_weight(&m, FB_ROLE_ATTENTION, 7, 0, 50, false); /* of a layer that is not announced */
    plan = fb_offload_make(&m.catalog, 100, UINT64_MAX, 0);
    check(&plan, true, 0, 0, 3007, 0);
}

/* More room never offloads less, and no plan exceeds its room. */
static void test_every_room(void **state)
{
    (void)state;
    for (int n_layers = 1; n_layers <= 6; n_layers++) {
        for (int n_expert = 0; n_expert <= 4; n_expert += 4) {
            struct model m;
            struct fb_offload_plan before = {0};
            make_catalog(&m, n_layers, n_expert, n_layers % 2);
            for (uint64_t room = 0; room < 14000; room += 7) {
                uint64_t reserve = 40 * (uint64_t)n_layers, kv = 11 * (uint64_t)n_layers + 1;
                struct fb_offload_plan plan = fb_offload_make(&m.catalog, kv, room, reserve);
                assert_true(!plan.output || plan.weights_bytes + plan.kv_bytes + reserve <= room);
                assert_true(plan.output >= before.output);
                assert_true(plan.n_layers >= before.n_layers && plan.n_layers <= n_layers);
                assert_true(plan.n_whole >= before.n_whole && plan.n_whole <= plan.n_layers);
                assert_true(plan.n_whole == 0 || plan.n_layers == n_layers);
                before = plan;
            }
            assert_int_equal(before.n_whole, n_layers); /* the last room has space for all */
        }
    }
}

/* --- Slots ------------------------------------------------------------------------------------ */

/* Layers 1 .. 3 with experts of 300 + 100, 1000 and 200 bytes, and one more that is not asked
 * for. */
static void make_slotted(struct model *m)
{
    static const int n_experts[] = {16, 8, 16, 64};
    static const uint64_t bytes[] = {300, 1000, 200, 5000};
    model_init(m, 0);
    add_weight(m, FB_ROLE_EXPERT_DOWN, 1, n_experts[0], 100, false);
    for (int i = 0; i < 4; i++) {
        add_weight(m, FB_ROLE_EXPERT_UP, 1 + i, n_experts[i], bytes[i], false);
    }
    claim_all(m);
}

/* A slot of each takes 1600 bytes, and a unit 1000 at most. */
static void test_device_slots_by_hand(void **state)
{
    (void)state;
    struct model m;
    make_slotted(&m);
    static const struct {
        uint64_t bytes, n, transit_bytes;
        int of[3];
    } cases[] = {
        {3600, 1, 2000, {1, 1, 1}},  /* the least */
        {5199, 1, 2000, {1, 1, 1}},  /* a byte short of one more */
        {5200, 2, 2000, {2, 2, 2}},  /* 2 x 1600 + 2000 */
        {16000, 8, 2000, {8, 8, 8}}, /* from here on an eighth is for the transit */
        {32000, 17, 4000, {16, 8, 16}},
        {1000000, 584, 65000, {16, 8, 16}}, /* 64 units and a spare one at most */
    };
    assert_int_equal(fb_device_slots_least(m.weights, 1, 4), 3600);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fb_device_slots slots = fb_device_slots_make(m.weights, 1, 4, cases[i].bytes);
        assert_int_equal(slots.n, cases[i].n);
        assert_int_equal(slots.transit_bytes, cases[i].transit_bytes);
        for (int g = 0; g < 3; g++) {
            assert_int_equal(fb_device_slots_of(&slots, &m.weights->groups[g]), cases[i].of[g]);
        }
    }
    fb_weights_free(m.weights);
}

/* Beside slots in RAM: 16 units and a spare one at most, 1 and a spare one at least. */
static void test_transit_alone(void **state)
{
    (void)state;
    struct model m;
    make_slotted(&m);
    assert_int_equal(fb_device_slots_least_transit(m.weights, 1, 4), 2000);
    assert_int_equal(fb_device_slots_transit(0, 1000), 0);
    assert_int_equal(fb_device_slots_transit(1999, 1000), 0);
    assert_int_equal(fb_device_slots_transit(2000, 1000), 2000);
    assert_int_equal(fb_device_slots_transit(9999, 1000), 9999);
    assert_int_equal(fb_device_slots_transit(1000000, 1000), 17000);
    fb_weights_free(m.weights);
}

/* Any model, any size. */
static void test_device_slots_never_exceed_their_memory(void **state)
{
    (void)state;
    struct model m;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        random_model(&m, seed, 20);
        uint64_t least = fb_device_slots_least(m.weights, 0, 100), last = 0, each = 0;
        for (int w = 0; w < m.weights->n_weights; w++) {
            each += m.weights->weights[w].group >= 0 ? m.weights->weights[w].unit_bytes : 0;
        }
        for (uint64_t bytes = least; each && bytes < 40 * least; bytes += 1 + rnd_below(least)) {
            struct fb_device_slots slots = fb_device_slots_make(m.weights, 0, 100, bytes);
            assert_true(slots.n >= 1 && slots.n >= last);
            assert_true(slots.n * each + slots.transit_bytes <= bytes);
            last = slots.n;
        }
        fb_weights_free(m.weights);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense_by_hand),
        cmocka_unit_test(test_experts_by_hand),
        cmocka_unit_test(test_tied_output),
        cmocka_unit_test(test_odd_catalogues),
        cmocka_unit_test(test_every_room),
        cmocka_unit_test(test_device_slots_by_hand),
        cmocka_unit_test(test_transit_alone),
        cmocka_unit_test(test_device_slots_never_exceed_their_memory),
    };
    return cmocka_run_group_tests_name("plan_device", tests, NULL, NULL);
}
