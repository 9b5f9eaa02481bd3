/*
 * test_placement.c - which layers' experts a device computes, whole or from slots: machines on
 * which one choice is clearly best, and that no choice is estimated to be slower than whole layers.
 */
#include "weights_fixture.h"

#include <math.h>

#include "plan/placement.h"

#define LAYERS  8
#define EXPERTS 16
#define USED    2
#define UNIT    1000000 /* bytes of an expert */
#define DENSE   500000  /* of a layer's dense weights */
#define CARD    "Vulkan0: A card"

static const char *type_name(int type)
{
    (void)type;
    return "q";
}

/* A model, a machine and what devices hold of the one on the other. */
struct made {
    struct model model;
    struct fb_profile profile;
    struct fb_speed_inputs speed;
    struct fb_offload_plan whole;
    struct fb_placement_inputs in;
};

static const char *const names[FOREBAY_DEVICES] = {
    CARD, "", "", "", "", "", "", "", "", "", "", "", "", "", "", ""};

static void add_matrix(
    struct model *m, enum fb_role role, int layer, int n_expert, int columns, int rows)
{
    int i = add_weight(m, role, layer, n_expert, (uint64_t)columns * (uint64_t)rows, false);
    int64_t ne[4] = {columns, rows, n_expert ? n_expert : 1, 1};
    memcpy(m->tensors[i].ne, ne, sizeof ne);
}

static void put_rate(
    struct fb_profile *p, const char *device, bool expert, double decode, double batch)
{
    struct fb_profile_rate r = {.type = "q",
        .threads = 1,
        .decode = decode,
        .batch = expert ? 0 : batch,
        .experts = expert ? batch : 0};
    snprintf(r.device, sizeof r.device, "%s", device);
    r.columns = expert ? 1000 : 0;
    r.rows = expert ? UNIT / 1000 : 0;
    r.used = expert ? USED : 0;
    fb_profile_put_rate(p, &r);
}

/* CPU and card: bytes per second for one token; for many, ten multiply-adds for each byte. The card
 * has room for the dense weights and so many experts. */
static void make(struct made *x, double cpu, double card, double upload, double disk,
    int room_experts, int ram_experts)
{
    memset(x, 0, sizeof *x);
    model_init(&x->model, 0);
    x->model.catalog.n_layer = LAYERS;
    x->model.catalog.n_expert = EXPERTS;
    x->model.catalog.n_expert_used = USED;
    for (int l = 0; l < LAYERS; l++) {
        add_matrix(&x->model, FB_ROLE_ATTENTION, l, 0, 500, DENSE / 500);
        add_matrix(&x->model, FB_ROLE_EXPERT_UP, l, EXPERTS, 1000, UNIT / 1000);
    }
    add_matrix(&x->model, FB_ROLE_OUTPUT, -1, 0, 500, DENSE / 500);
    claim_all(&x->model);
    for (int expert = 0; expert <= 1; expert++) {
        put_rate(&x->profile, "", expert, cpu, 10 * cpu);
        put_rate(&x->profile, CARD, expert, card, 10 * card);
    }
    struct fb_profile_device device = {CARD, upload, 1e-6, 1e-5};
    fb_profile_put_device(&x->profile, &device);
    x->profile.op_s = 1e-6;
    x->speed = (struct fb_speed_inputs){.weights = x->model.weights,
        .profile = &x->profile,
        .type_name = type_name,
        .threads = 1,
        .disk_bytes_per_s = disk,
        .disk_burst = 1,
        .batch = 512};
    uint64_t dense = (uint64_t)DENSE * (LAYERS + 1), room = (uint64_t)room_experts * UNIT;
    struct fb_offload_rooms rooms = {1, {dense + room}};
    x->whole = fb_offload_make(&x->model.catalog, 0, false, &rooms);
    assert_int_equal(x->whole.n_layers, LAYERS);
    x->in = (struct fb_placement_inputs){.speed = &x->speed,
        .whole = &x->whole,
        .names = names,
        .ram_bytes = 2 * dense + (uint64_t)ram_experts * (UNIT + 4096),
        .ram_beside_bytes = dense + (uint64_t)ram_experts * (UNIT + 4096),
        .slots_bytes = room};
}

static struct fb_placement choose(struct made *x)
{
    struct fb_placement out;
    fb_placement_choose(&x->in, &out);
    assert_true(!out.known || out.seconds <= out.whole_seconds);
    return out;
}

/* A fast card with a fast bus and room for half of the experts, and a slow disk. */
static void test_slots_where_the_disk_is_slow(void **state)
{
    (void)state;
    struct made x;
    make(&x, 1e10, 1e11, 2e10, 5e8, LAYERS * EXPERTS / 2, LAYERS * 3);
    assert_int_equal(x.whole.n_whole, 4);
    struct fb_placement p = choose(&x);
    assert_true(p.known && p.use && p.slots);
    assert_true(p.seconds < 0.9 * p.whole_seconds);
    fb_weights_free(x.model.weights);
}

/* All experts are in memory: a CPU computes with them where they are, and a slow bus only loses. */
static void test_whole_layers_where_the_bus_is_slow(void **state)
{
    (void)state;
    struct made x;
    make(&x, 1e10, 1e11, 1e9, 1e9, LAYERS * EXPERTS / 2, LAYERS * EXPERTS);
    struct fb_placement p = choose(&x);
    assert_true(p.known && p.use && !p.slots);
    assert_int_equal(p.n_whole, 4);
    fb_weights_free(x.model.weights);
}

/* The same, but the card's memory is the machine's: it computes with them where they are. What
 * whole layers no longer take is RAM's, so that a disk matters less. */
static void test_shared_slots_where_the_bus_is_slow(void **state)
{
    (void)state;
    struct made x;
    make(&x, 1e10, 1e11, 1e9, 1e9, LAYERS * EXPERTS / 2, LAYERS * EXPERTS / 2);
    x.in.slots_shared = true;
    x.in.slots_bytes = 2 * UNIT;
    struct fb_placement p = choose(&x);
    assert_true(p.known && p.use && p.slots);
    x.in.slots_shared = false;
    x.in.slots_bytes = (uint64_t)LAYERS * EXPERTS / 2 * UNIT;
    struct fb_placement copies = choose(&x);
    assert_true(copies.seconds > 1.1 * p.seconds && copies.whole_seconds == p.whole_seconds);
    fb_weights_free(x.model.weights);
}

/* Slots for less than a token's experts of each layer. */
static void test_whole_layers_on_a_small_card(void **state)
{
    (void)state;
    struct made x;
    make(&x, 1e10, 1e11, 2e10, 5e8, LAYERS * USED - 1, LAYERS * 4);
    struct fb_placement p = choose(&x);
    assert_true(p.known && p.use && !p.slots);
    fb_weights_free(x.model.weights);
}

/* A card that is slower than the CPU is left out, unless it was named. */
static void test_a_slow_card_is_left_out(void **state)
{
    (void)state;
    struct made x;
    make(&x, 1e10, 1e8, 1e9, 1e9, LAYERS * EXPERTS / 2, LAYERS * EXPERTS);
    x.in.may_do_without = true;
    struct fb_placement p = choose(&x);
    assert_true(p.known && !p.use && !p.slots);
    x.in.may_do_without = false;
    p = choose(&x);
    assert_true(p.known && p.use);
    fb_weights_free(x.model.weights);
}

static void test_a_missing_rate_means_whole_layers(void **state)
{
    (void)state;
    struct made x;
    make(&x, 1e10, 1e11, 2e10, 5e8, LAYERS * EXPERTS / 2, LAYERS * 4);
    x.in.may_do_without = true;
    x.profile.n_devices = 0;
    struct fb_placement p = choose(&x);
    assert_true(!p.known && p.use && !p.slots && p.n_whole == 4);
    fb_weights_free(x.model.weights);
}

static double power(double low, double high)
{
    return low * pow(high / low, (double)rnd_below(1000) / 1000);
}

/* On any machine: never estimated to be slower than whole layers, clearly faster if it is another
 * choice, and the same each time. */
static void test_never_slower_than_whole_layers(void **state)
{
    (void)state;
    int slots = 0, whole = 0, without = 0;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        struct made x;
        random_state = seed;
        make(&x, power(1e9, 1e11), power(1e8, 1e12), power(1e8, 1e11), power(1e8, 1e10),
            (int)rnd_below(LAYERS * EXPERTS), LAYERS * USED + (int)rnd_below(LAYERS * EXPERTS));
        x.in.may_do_without = rnd_below(2);
        struct fb_placement p = choose(&x), again = choose(&x);
        assert_true(p.known);
        assert_memory_equal(&p, &again, sizeof p);
        bool other = p.slots || !p.use;
        assert_true(other ? p.seconds < 0.9 * p.whole_seconds : p.seconds == p.whole_seconds);
        assert_true(!p.slots || p.n_whole <= x.whole.n_whole);
        slots += p.slots;
        without += !p.use;
        whole += !other;
        fb_weights_free(x.model.weights);
    }
    assert_true(slots > 5 && without > 5 && whole > 5);
}

/* What a device holds takes its bytes at its rate, and operations. */
static void test_held_weights_by_hand(void **state)
{
    (void)state;
    struct made x;
    double seconds;
    uint64_t bytes;
    make(&x, 1e10, 1e11, 2e10, 5e8, LAYERS * EXPERTS / 2, LAYERS * 4);
    assert_true(fb_estimate_held(&x.speed, &x.whole, names, 1, &seconds, &bytes));
    double weights = DENSE * (LAYERS + 1) + 4.0 * USED * UNIT;
    assert_true(fabs(seconds - (weights / 1e11 + LAYERS * 40 * 1e-6)) < 1e-9);
    assert_int_equal(bytes, DENSE * (LAYERS + 1) + 4 * USED * UNIT);
    fb_weights_free(x.model.weights);
}

/* A batch of 512 tokens with 8 layers' dense weights, copied to the card: each takes longer to
 * compute with than to read there. Generating is as before. */
static void test_prompts_on_a_device_by_hand(void **state)
{
    (void)state;
    struct made x;
    struct fb_speed before, speed;
    make(&x, 1e10, 1e11, 2e10, 5e8, LAYERS * EXPERTS, 0);
    struct fb_speed_devices devices = {.n_layers = LAYERS};
    struct fb_claim claims[LAYERS];
    for (int l = 0; l < LAYERS; l++) {
        claims[l] = (struct fb_claim){.tensor = 2 * l, .unit_bytes = DENSE};
    }
    struct fb_weights *dense = fb_weights_new(&x.model.catalog, claims, LAYERS);
    x.speed.weights = dense;
    x.speed.devices = &devices;
    fb_estimate(&x.speed, &before);
    devices.prompts = CARD;
    fb_estimate(&x.speed, &speed);
    double seconds = LAYERS * (DENSE / 2e10 + 512.0 * DENSE / 1e12);
    assert_true(fabs(512 / speed.prompt_tok_per_s - seconds) < 1e-6 * seconds);
    assert_true(speed.prompt_tok_per_s > before.prompt_tok_per_s);
    assert_true(speed.decode_tok_per_s == before.decode_tok_per_s);
    fb_weights_free(dense);
    fb_weights_free(x.model.weights);
}

static void test_a_conversation_has_512_and_256_tokens(void **state)
{
    (void)state;
    struct fb_speed speed = {.prompt_tok_per_s = 128, .decode_tok_per_s = 16};
    assert_true(fb_placement_seconds(&speed) == 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots_where_the_disk_is_slow),
        cmocka_unit_test(test_whole_layers_where_the_bus_is_slow),
        cmocka_unit_test(test_shared_slots_where_the_bus_is_slow),
        cmocka_unit_test(test_whole_layers_on_a_small_card),
        cmocka_unit_test(test_a_slow_card_is_left_out),
        cmocka_unit_test(test_a_missing_rate_means_whole_layers),
        cmocka_unit_test(test_never_slower_than_whole_layers),
        cmocka_unit_test(test_held_weights_by_hand),
        cmocka_unit_test(test_prompts_on_a_device_by_hand),
        cmocka_unit_test(test_a_conversation_has_512_and_256_tokens),
    };
    return cmocka_run_group_tests_name("placement", tests, NULL, NULL);
}
