/*
 * test_offload.c - layers, experts and slots on devices: cases worked by hand, and properties over
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

/* On one device, of whose room `reserve` is for something else. */
static struct fb_offload_plan on_one(
    const struct model *m, uint64_t kv_bytes, uint64_t room, uint64_t reserve)
{
    struct fb_offload_rooms rooms = {1, {room - (reserve < room ? reserve : room)}};
    return fb_offload_make(&m->catalog, kv_bytes, false, &rooms);
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
    struct fb_offload_plan plan = on_one(&m, 30, 3006, 0);
    check(&plan, false, 0, 0, 0, 0);
    plan = on_one(&m, 30, 3007, 0);
    check(&plan, true, 0, 0, 3007, 0);
    plan = on_one(&m, 30, 3007 + 112, 0); /* the last layer goes first */
    check(&plan, true, 1, 0, 3109, 10);
    plan = on_one(&m, 30, 3007 + 112 + 110, 0);
    check(&plan, true, 1, 0, 3109, 10);
    plan = on_one(&m, 30, 3007 + 303 + 30, 0);
    check(&plan, true, 3, 3, 3310, 30);
    plan = on_one(&m, 30, 3007 + 303 + 30, 1); /* a byte is for something else */
    check(&plan, true, 2, 0, 3210, 20);
    plan = on_one(&m, 30, 100, 101);
    check(&plan, false, 0, 0, 0, 0);
}

/* Experts are offloaded last, and only when every layer is. */
static void test_experts_by_hand(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 2, 4, true);
    uint64_t dense = 3007 + 100 + 101;
    struct fb_offload_plan plan = on_one(&m, 0, dense - 1, 0);
    check(&plan, true, 1, 0, dense - 100, 0);
    plan = on_one(&m, 0, dense + 999, 0);
    check(&plan, true, 2, 0, dense, 0);
    plan = on_one(&m, 0, dense + 1000, 0);
    check(&plan, true, 2, 1, dense + 1000, 0);
    plan = on_one(&m, 0, dense + 2000, 0);
    check(&plan, true, 2, 2, dense + 2000, 0);
}

/* Without an output matrix, the embedding serves as one: the device holds a copy. */
static void test_tied_output(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 1, 0, false);
    struct fb_offload_plan plan = on_one(&m, 0, 5006, 0);
    check(&plan, false, 0, 0, 0, 0);
    plan = on_one(&m, 0, 5007, 0);
    check(&plan, true, 0, 0, 5007, 0);
}

static void test_odd_catalogues(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 0, 0, true);
    struct fb_offload_plan plan = on_one(&m, 100, 1 << 20, 0);
    check(&plan, true, 0, 0, 3007, 0);
    add_weight(&m, FB_ROLE_ATTENTION, 7, 0, 50, false); /* of a layer that is not announced */
    plan = on_one(&m, 100, UINT64_MAX, 0);
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
                struct fb_offload_plan plan = on_one(&m, kv, room, reserve);
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

/* --- Several devices ------------------------------------------------------------------------ */

/* 3007 bytes of output, layers of 101 and 100 bytes, experts of 1001 and 1000. */
static void test_two_devices_by_hand(void **state)
{
    (void)state;
    struct model m;
    static const struct {
        uint64_t rooms[2];
        int extent, layers_on[2], output_device;
    } cases[] = {
        {{3006, 3006}, -1, {0, 0}, 0},
        {{3006, 3007}, 0, {0, 0}, 1}, /* the output is in one piece */
        {{3007, 101}, 1, {0, 1}, 0},
        {{3107, 201}, 2, {0, 2}, 0},
        {{3108, 100}, 2, {1, 1}, 0},
        {{3108, 1101}, 2, {1, 1}, 0}, /* no room for the last layer's experts */
        {{4109, 99}, 2, {2, 0}, 0},   /* layers before experts */
        {{4109, 100}, 3, {1, 1}, 0},
        {{4109, 1100}, 4, {1, 1}, 0},
        {{3108, 1202}, 3, {0, 2}, 0}, /* the last layer moves to where its experts fit */
        {{9999, 9999}, 4, {2, 0}, 0},
    };
    make_catalog(&m, 2, 4, true);
    m.tensors[6].bytes += 1; /* 1001, which four experts do not add up to */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fb_offload_rooms rooms = {2, {cases[i].rooms[0], cases[i].rooms[1]}};
        struct fb_offload_plan plan = fb_offload_make(&m.catalog, 0, false, &rooms);
        assert_int_equal(fb_offload_extent(&plan), cases[i].extent);
        assert_int_equal(plan.layers_on[0], cases[i].layers_on[0]);
        assert_int_equal(plan.layers_on[1], cases[i].layers_on[1]);
        assert_int_equal(plan.output_device, cases[i].output_device);
    }
}

/* Bytes of a layer on a device. */
static uint64_t layer_cost(const struct model *m, int layer, bool whole, uint64_t kv)
{
    uint64_t bytes = kv;
    for (int t = 0; t < m->catalog.n_tensors; t++) {
        const struct fb_tensor *tensor = &m->tensors[t];
        bytes += tensor->layer == layer && (whole || tensor->n_expert == 0) ? tensor->bytes : 0;
    }
    return bytes;
}

/* Whether layers first .. layer fit, in any division, into `left` and the rooms after device d. */
static bool naive_fits(const struct model *m, const struct fb_offload_rooms *rooms, int layer,
    int first, int first_whole, uint64_t kv, int d, uint64_t left)
{
    if (layer < first) {
        return true;
    }
    uint64_t cost = layer_cost(m, layer, layer >= first_whole, kv);
    return (cost <= left &&
               naive_fits(m, rooms, layer - 1, first, first_whole, kv, d, left - cost)) ||
           (d + 1 < rooms->n &&
               naive_fits(m, rooms, layer, first, first_whole, kv, d + 1, rooms->bytes[d + 1]));
}

static int naive_extent(const struct model *m, const struct fb_offload_rooms *rooms, uint64_t kv)
{
    int n = m->catalog.n_layer, best = -1;
    for (int extent = 0; extent <= 2 * n; extent++) {
        int n_layers = extent < n ? extent : n;
        for (int d = 0; d < rooms->n; d++) {
            if (rooms->bytes[d] >= 3007 && naive_fits(m, rooms, n - 1, n - n_layers, 2 * n - extent,
                                               kv, d, rooms->bytes[d] - 3007)) {
                best = extent;
            }
        }
    }
    return best;
}

/* What a plan says of each device is what its layers take. */
static void check_devices(const struct model *m, const struct fb_offload_plan *plan,
    const struct fb_offload_rooms *rooms, uint64_t kv)
{
    int n = m->catalog.n_layer, layers = 0;
    for (int d = 0; d < rooms->n; d++) {
        uint64_t bytes = plan->output && plan->output_device == d ? 3007 : 0;
        for (int l = 0; l < n; l++) {
            bool here = fb_offload_device_of(plan, n, l) == d;
            bytes += here ? layer_cost(m, l, l >= n - plan->n_whole, kv) : 0;
            layers += here;
        }
        assert_int_equal(bytes, plan->bytes_on[d]);
        assert_true(bytes <= rooms->bytes[d]);
        assert_int_equal(fb_offload_uses(plan, d), bytes > 0);
    }
    assert_int_equal(layers, plan->n_layers);
    assert_int_equal(fb_offload_device_of(plan, n, n), -1);
}

static void test_several_devices_hold_the_most(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct model m;
        random_state = seed;
        int n = 1 + (int)rnd_below(5);
        make_catalog(&m, n, rnd_below(3) ? 4 : 0, true);
        struct fb_offload_rooms rooms = {1 + (int)rnd_below(3), {0}};
        for (int d = 0; d < rooms.n; d++) {
            rooms.bytes[d] = (d == 0 ? 3000 : 0) + rnd_below(5000);
        }
        struct fb_offload_plan plan = fb_offload_make(&m.catalog, 7 * (uint64_t)n, false, &rooms);
        assert_int_equal(fb_offload_extent(&plan), naive_extent(&m, &rooms, 7));
        check_devices(&m, &plan, &rooms, 7);
    }
}

/* --- Searching ------------------------------------------------------------------------------ */

/* llama.cpp, as it were: buffers beside weights and KV cache, which shrink where nothing is
 * exchanged with the CPU any more; and layers whose KV cache differs from the average. */
struct measured {
    const struct model *m;
    uint64_t buffers[3]; /* while layers, while experts, and while nothing is with the CPU */
    uint64_t more_on[4]; /* on each device */
    int64_t kv_of_each;  /* more or less than the average */
    int n_measured;
};

static enum forebay_status measure(
    void *user, const struct fb_offload_plan *plan, uint64_t *bytes_on, struct forebay_error *err)
{
    struct measured *x = user;
    (void)err;
    int n = x->m->catalog.n_layer;
    int part = plan->n_layers < n ? 0 : plan->n_whole < n ? 1 : 2;
    x->n_measured++;
    for (int d = 0; d < 4; d++) {
        bytes_on[d] = fb_offload_uses(plan, d)
                          ? plan->bytes_on[d] + x->buffers[part] + x->more_on[d] +
                                (uint64_t)(x->kv_of_each * plan->layers_on[d])
                          : 0;
    }
    return FOREBAY_OK;
}

static int search(struct measured *x, const struct fb_offload_rooms *rooms, uint64_t reserve)
{
    struct fb_offload_plan plan = {0};
    uint64_t kv = 20 * (uint64_t)x->m->catalog.n_layer, bytes_on[FOREBAY_DEVICES] = {0};
    x->n_measured = 0;
    assert_int_equal(
        fb_offload_search(&x->m->catalog, kv, reserve, false, rooms, measure, x, &plan, NULL),
        FOREBAY_OK);
    assert_true(x->n_measured <= 16);
    measure(x, &plan, bytes_on, NULL);
    for (int d = 0; d < rooms->n; d++) {
        assert_true(bytes_on[d] <= rooms->bytes[d]);
    }
    return fb_offload_extent(&plan);
}

/* The largest extent that fits on one device. */
static int largest_extent(struct measured *x, uint64_t room)
{
    struct fb_offload_rooms any = {1, {UINT64_MAX}};
    struct fb_offload_plan plan;
    int n = x->m->catalog.n_layer, best = -1;
    for (int extent = 0; extent <= 2 * n; extent++) {
        uint64_t bytes_on[4] = {0};
        assert_true(fb_offload_at(&x->m->catalog, 20 * (uint64_t)n, false, &any, extent, &plan));
        measure(x, &plan, bytes_on, NULL);
        best = bytes_on[0] <= room ? fb_offload_extent(&plan) : best;
    }
    return best;
}

/* Whatever the buffers take, and whatever they were thought to take. */
static void test_search_finds_the_largest(void **state)
{
    (void)state;
    static const uint64_t buffers[][3] = {
        {0, 0, 0}, {50, 50, 50}, {900, 900, 900}, {400, 400, 0}, {400, 100, 0}, {2000, 30, 10}};
    static const uint64_t reserves[] = {0, 50, 400, 3000};
    for (int n = 1; n <= 9; n += 2) {
        for (int n_expert = 0; n_expert <= 4; n_expert += 4) {
            struct model m;
            make_catalog(&m, n, n_expert, true);
            for (size_t i = 0; i < 6 * 4 * 3; i++) {
                struct measured x = {.m = &m, .kv_of_each = (int64_t)(i % 3) * 15 - 15};
                memcpy(x.buffers, buffers[i / 12], sizeof x.buffers);
                for (uint64_t room = 2000; room < 16000; room += 97) {
                    struct fb_offload_rooms rooms = {1, {room}};
                    assert_int_equal(
                        search(&x, &rooms, reserves[i / 3 % 4]), largest_extent(&x, room));
                }
            }
        }
    }
}

/* With the memory that all layers took, all layers are found, though fewer would take more. */
static void test_search_finds_all_layers(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 5, 0, true);
    struct measured x = {.m = &m, .buffers = {300, 300, 20}};
    struct fb_offload_rooms rooms = {1, {3007 + 510 + 100 + 20}};
    assert_int_equal(search(&x, &rooms, 300), 10);
    rooms.bytes[0]--;
    assert_true(search(&x, &rooms, 300) < 5);
}

/* Buffers of another size on each device: as if they were known. */
static void test_search_on_several_devices(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct model m;
        random_state = seed;
        int n = 1 + (int)rnd_below(8);
        make_catalog(&m, n, rnd_below(2) ? 4 : 0, true);
        struct measured x = {.m = &m, .buffers = {40, 40, 40}};
        struct fb_offload_rooms rooms = {2 + (int)rnd_below(2), {0}}, known = rooms;
        for (int d = 0; d < rooms.n; d++) {
            x.more_on[d] = rnd_below(300);
            rooms.bytes[d] = (d == 0 ? 3400 : 400) + rnd_below(4000);
            known.bytes[d] = rooms.bytes[d] - 40 - x.more_on[d];
        }
        struct fb_offload_plan best = fb_offload_make(&m.catalog, 20 * (uint64_t)n, false, &known);
        assert_int_equal(search(&x, &rooms, rnd_below(500)), fb_offload_extent(&best));
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
        cmocka_unit_test(test_two_devices_by_hand),
        cmocka_unit_test(test_several_devices_hold_the_most),
        cmocka_unit_test(test_search_finds_the_largest),
        cmocka_unit_test(test_search_finds_all_layers),
        cmocka_unit_test(test_search_on_several_devices),
        cmocka_unit_test(test_device_slots_by_hand),
        cmocka_unit_test(test_transit_alone),
        cmocka_unit_test(test_device_slots_never_exceed_their_memory),
    };
    return cmocka_run_group_tests_name("plan_device", tests, NULL, NULL);
}
