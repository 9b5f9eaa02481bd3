/*
 * test_ffns.c - FFNs placed apart from their layers on a device: the choice between that and whole
 * layers worked by hand, properties over all sizes of device, and the names that go to the CPU.
 */
#include <regex.h>

#include "weights_fixture.h"

#include "plan/ffns.h"
#include "plan/offload.h"

#define N_LAYERS 4

/* Layers of 40 bytes of attention, 10 of norms and an FFN of 2 x 30 bytes; 500 of output. */
static void make_catalog(struct model *m, int n_layers)
{
    model_init(m, 0);
    m->catalog.n_layer = n_layers;
    for (int l = 0; l < n_layers; l++) {
        add_weight(m, FB_ROLE_NORM, l, 0, 10, false);
        add_weight(m, FB_ROLE_ATTENTION, l, 0, 40, false);
        add_weight(m, FB_ROLE_DENSE_FFN, l, 0, 30, false);
        add_weight(m, FB_ROLE_DENSE_FFN, l, 0, 30, false);
    }
    add_weight(m, FB_ROLE_OUTPUT, -1, 0, 500, false);
}

/* Names as in a file: blk.0.attn_norm.weight, blk.0.attn_q.weight, ... */
static void name_tensors(struct model *m)
{
    static const char *const bases[] = {
        "attn_norm.weight", "attn_q.weight", "ffn_up.weight", "ffn_down.bias"};
    static char names[MAX_TENSORS][64];
    for (int i = 0; i < m->catalog.n_tensors; i++) {
        struct fb_tensor *t = &m->tensors[i];
        snprintf(names[i], sizeof names[i], t->layer < 0 ? "output.weight" : "blk.%d.%s", t->layer,
            bases[i % 4]);
        t->name = names[i];
    }
}

static struct fb_offload_plan choose(
    const struct fb_catalog *catalog, uint64_t kv_bytes, uint64_t room, uint64_t reserve)
{
    struct fb_offload_rooms rooms = {1, {room - (room < reserve ? room : reserve)}};
    struct fb_offload_plan whole = fb_offload_make(catalog, kv_bytes, false, &rooms);
    struct fb_offload_plan apart = fb_offload_make(catalog, kv_bytes, true, &rooms);
    return whole.n_layers < catalog->n_layer &&
                   fb_ffns_better_apart(
                       catalog, fb_offload_bytes(&whole), fb_offload_bytes(&apart), apart.n_layers)
               ? apart
               : whole;
}

/* A layer takes 115 bytes with its 5 of KV cache, and 55 of these without its FFN. */
static void by_hand(void **state)
{
    (void)state;
    static const struct {
        uint64_t room;
        bool apart;
        int n_layers, n_whole;
        uint64_t bytes;
    } cases[] = {
        {499, false, 0, 0, 0},
        {500 + 219, false, 1, 0, 615}, /* attention of all layers does not fit */
        {500 + 220, true, 4, 0, 720},  /* 220 bytes of attention, or 115 of one layer */
        {500 + 229, true, 4, 0, 720},  /* a second layer does not fit */
        {500 + 230, false, 2, 0, 730}, /* it fills more than attention alone */
        {500 + 280, true, 4, 1, 780},  /* and less than attention with one FFN */
        {500 + 340, true, 4, 2, 840},  /* two FFNs: 340 bytes; two layers: 230 */
        {500 + 345, false, 3, 0, 845}, /* three layers: 345 */
        {500 + 400, true, 4, 3, 900}, {500 + 459, true, 4, 3, 900},
        {500 + 460, false, 4, 4, 960}, /* all */
    };
    struct model m;
    make_catalog(&m, N_LAYERS);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fb_offload_plan plan = choose(&m.catalog, 20, cases[i].room, 0);
        assert_int_equal(plan.output && plan.ffns_apart, cases[i].apart);
        assert_int_equal(plan.n_layers, cases[i].n_layers);
        assert_int_equal(plan.n_whole, cases[i].n_whole);
        assert_int_equal(plan.weights_bytes + plan.kv_bytes, cases[i].bytes);
        assert_int_equal(plan.weights_bytes ? fb_offload_gpu_layers(&plan) : 1, plan.n_layers + 1);
    }
}

/* Between whole layers and FFNs apart that fill as much, FFNs apart; never without all layers. */
static void the_rule(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 2);
    assert_true(fb_ffns_better_apart(&m.catalog, 610, 610, 2));
    assert_false(fb_ffns_better_apart(&m.catalog, 611, 610, 2));
    assert_false(fb_ffns_better_apart(&m.catalog, 0, 610, 1));
}

/* More room never leaves less on the device, and no plan exceeds its room. */
static void every_room(void **state)
{
    (void)state;
    for (int n_layers = 1; n_layers <= 7; n_layers++) {
        struct model m;
        uint64_t before = 0, reserve = 3 * (uint64_t)n_layers, kv = 7 * (uint64_t)n_layers + 1;
        make_catalog(&m, n_layers);
        for (uint64_t room = 0; room < 1600; room++) {
            struct fb_offload_plan plan = choose(&m.catalog, kv, room, reserve);
            uint64_t bytes = plan.weights_bytes + plan.kv_bytes;
            assert_true(bytes >= before && (bytes == 0 || bytes + reserve <= room));
            assert_true(!plan.output || !plan.ffns_apart || plan.n_layers == n_layers);
            before = bytes;
        }
    }
}

/* A model with experts has none, whatever its layers hold beside them. */
static void not_with_experts(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 2);
    assert_true(fb_ffns_has(&m.catalog, &m.tensors[2]));
    assert_false(fb_ffns_has(&m.catalog, &m.tensors[1]));
    m.tensors[2].layer = 2; /* a layer that is not announced */
    assert_false(fb_ffns_has(&m.catalog, &m.tensors[2]));
    m.catalog.n_expert = 8;
    assert_false(fb_ffns_has(&m.catalog, &m.tensors[3]));
}

static bool matches(const char *pattern, const char *name)
{
    regex_t compiled;
    assert_int_equal(regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool found = regexec(&compiled, name, 0, NULL, 0) == 0;
    regfree(&compiled);
    return found;
}

static void patterns(void **state)
{
    (void)state;
    struct model m;
    make_catalog(&m, 12);
    name_tensors(&m);
    char *pattern = fb_ffns_pattern(&m.catalog, 11);
    for (int i = 0; i < m.catalog.n_tensors; i++) {
        const struct fb_tensor *t = &m.tensors[i];
        bool ours = t->role == FB_ROLE_DENSE_FFN && t->layer < 11;
        assert_int_equal(matches(pattern, t->name), ours);
    }
    assert_false(matches(pattern, "blk.1.ffn_up_weight")); /* a dot is only a dot */
    assert_false(matches(pattern, "blk.1.ffn_up.weights"));
    assert_false(matches(pattern, "blk.1.ffn_norm.weight"));
    free(pattern);
    assert_null(fb_ffns_pattern(&m.catalog, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),
        cmocka_unit_test(the_rule),
        cmocka_unit_test(every_room),
        cmocka_unit_test(not_with_experts),
        cmocka_unit_test(patterns),
    };
    return cmocka_run_group_tests_name("plan_ffns", tests, NULL, NULL);
}
