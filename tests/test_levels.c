/*
 * test_levels.c - a tier above a stream, against the file's bytes and a naive model of what RAM
 * holds. The device is an array here: what is copied up and down is checked unit by unit.
 */
#include "weights_fixture.h"

#include "stream/levels.h"

#define LAYERS    2
#define EXPERTS   24
#define ALL_PARTS 7u
#define MOST_ROWS 64

static struct model own;
static struct model *model = &own;
static struct fb_stream *stream;
static struct fb_levels levels;

/* The device, by weight: the units in its slots, and the expert that each is of (-1: none). */
static struct {
    unsigned char *units;
    int of[EXPERTS];
} device[MAX_TENSORS];
static int tier_slots[LAYERS];
static uint64_t up_bytes, down_bytes;

/* --- Two levels ------------------------------------------------------------------------------- */

/* Each part is unpacked differently: read in place (whole blocks), copied, repacked. */
static int set_up(void **state)
{
    static const uint64_t sizes[LAYERS][3] = {{8192, 5000, 1700}, {3333, 4096, 12288}};
    make_contents(state);
    model_init(model, 999);
    model->catalog.n_expert_used = 3;
    for (int l = 0; l < LAYERS; l++) {
        add_expert_layer(model, l, EXPERTS, sizes[l]);
    }
    model_open(model);
    return 0;
}

static int close_after(void **state)
{
    (void)state;
    fb_levels_close(&levels);
    fb_levels_release(&levels);
    fb_stream_free(stream);
    fb_tier_free(levels.tier);
    levels = (struct fb_levels){0};
    stream = NULL;
    for (int w = 0; w < model->weights->n_weights; w++) {
        free(device[w].units);
        device[w].units = NULL;
    }
    return 0;
}

static int tear_down(void **state)
{
    close_after(state);
    model_close(model);
    return free_contents(state);
}

static unsigned char *unit_at(int weight, int slot)
{
    assert_in_range(slot, 0, tier_slots[model->weights->weights[weight].group] - 1);
    return device[weight].units + (uint64_t)slot * model->weights->weights[weight].unit_bytes;
}

static void check_unit(int weight, int expert, const void *unit, const char *where)
{
    if (!form_is_right(model, weight, expert, unit)) {
        fail_msg("weight %d, expert %d: wrong bytes %s", weight, expert, where);
    }
}

/* The slot's expert if it has all parts of it, else -1. */
static int whole_in_slot(int group, int slot)
{
    const int *weight = model->weights->groups[group].weight;
    int expert = device[weight[0]].of[slot];
    for (int p = 1; p < 3; p++) {
        expert = device[weight[p]].of[slot] == expert ? expert : -1;
    }
    return expert;
}

/* Which expert a unit is of: the slot belongs to one that is needed and missing. */
static void copy_up(void *user, int weight, int slot, const void *unit)
{
    uint64_t bytes = model->weights->weights[weight].unit_bytes;
    int k = 0;
    (void)user;
    while (levels.slots[k] != slot) {
        k++;
        assert_true(k < levels.n_missing);
    }
    int expert = levels.missing[k];
    check_unit(weight, expert, unit, "on their way up");
    memcpy(unit_at(weight, slot), unit, (size_t)bytes);
    device[weight].of[slot] = expert;
    up_bytes += bytes;
}

static void copy_down(void *user, int weight, int slot, void *unit)
{
    uint64_t bytes = model->weights->weights[weight].unit_bytes;
    int expert = whole_in_slot(model->weights->weights[weight].group, slot);
    (void)user;
    assert_true(expert >= 0);
    check_unit(weight, expert, unit_at(weight, slot), "on their way down");
    memcpy(unit, unit_at(weight, slot), (size_t)bytes);
    down_bytes += bytes;
}

/* LRU in RAM, so that the tests can tell what it holds. */
static void start_levels(int on_device, int in_ram, const char *method)
{
    bool resident[MAX_TENSORS] = {false};
    int slots[LAYERS] = {in_ram, in_ram}, slots_above[LAYERS] = {on_device, on_device};
    int experts[LAYERS] = {EXPERTS, EXPERTS}, parts[LAYERS] = {3, 3};
    const struct fb_plan plan = {.resident = resident,
        .slots = slots,
        .staging_bytes = 4 * largest_unit(model),
        .transit_bytes = 4 * largest_unit(model),
        .budget_bytes = 4 * largest_unit(model)};
    struct fb_stream_options options = {
        .policy = "lru", .cold = true, .unpack = unpack_units, .user = &model->weights};
    small_io_options(&options.io, method);
    close_after(NULL);
    assert_int_equal(fb_stream_new(model->weights, &plan, &options, &stream, NULL), FOREBAY_OK);
    assert_int_equal(fb_stream_load(stream, NULL, NULL, NULL), FOREBAY_OK);
    levels.weights = model->weights;
    levels.stream = stream;
    levels.tier = fb_tier_new(LAYERS, experts, parts, slots_above);
    levels.device = (struct fb_levels_device){.up = copy_up, .down = copy_down};
    tier_slots[0] = tier_slots[1] = on_device;
    up_bytes = down_bytes = 0;
    for (int w = 0; w < model->weights->n_weights; w++) {
        device[w].units = fb_xcalloc(EXPERTS, (size_t)model->weights->weights[w].unit_bytes);
        memset(device[w].of, -1, sizeof device[w].of);
    }
}

static uint64_t read_bytes(void)
{
    struct fb_stream_stats s;
    fb_stream_stats(stream, &s);
    return s.expert_bytes;
}

/* Bytes of one expert's slot of the tier. */
static uint64_t slot_bytes(int group)
{
    uint64_t bytes = 0;
    for (int p = 0; p < 3; p++) {
        bytes += model->weights->weights[model->weights->groups[group].weight[p]].unit_bytes;
    }
    return bytes;
}

/* --- Steps ------------------------------------------------------------------------------------ */

/* A step's routes, and what they need. */
struct step {
    int experts[MOST_ROWS], uses_of[EXPERTS], needed[EXPERTS], uses[EXPERTS];
    struct fb_routes routes;
};

static void make_step(struct step *s, const int *experts, int tokens, int picks)
{
    int n = 0;
    memset(s->uses_of, 0, sizeof s->uses_of);
    for (int i = 0; i < tokens * picks; i++) {
        s->experts[i] = experts[i];
        s->uses_of[experts[i]]++;
    }
    for (int e = 0; e < EXPERTS; e++) {
        if (s->uses_of[e]) {
            s->uses[n] = s->uses_of[e];
            s->needed[n++] = e;
        }
    }
    s->routes = (struct fb_routes){s->experts, tokens, picks, s->needed, s->uses, n};
}

/* The missing experts pass by, each once for each matrix, with the right bytes. */
static enum forebay_status pass_by(int group, const struct step *s)
{
    enum forebay_status status = FOREBAY_OK;
    fb_levels_ask(&levels, model->weights->groups[group].weight[0], &s->routes);
    for (int p = 0; p < 3 && status == FOREBAY_OK; p++) {
        int weight = model->weights->groups[group].weight[p];
        bool handed[EXPERTS] = {false};
        struct fb_set set = {.n = 1};
        while (set.n > 0 && status == FOREBAY_OK) {
            status = fb_levels_next(&levels, weight, &set, NULL);
            for (int k = 0; k < set.n && status == FOREBAY_OK; k++) {
                check_unit(weight, set.experts[k],
                    (const char *)set.base + (uint64_t)set.index[k] * set.stride, "passing by");
                assert_false(handed[set.experts[k]]);
                handed[set.experts[k]] = true;
                bool admitted = levels.admitted[set.experts[k]] >= 0;
                up_bytes += admitted ? 0 : model->weights->weights[weight].unit_bytes;
            }
        }
        for (int e = 0; e < EXPERTS && status == FOREBAY_OK; e++) {
            assert_int_equal(handed[e], s->uses_of[e] > 0 && levels.slot_of[e] < 0);
        }
    }
    return status;
}

/* What a device would compute with now. */
static void check_slots_in_use(int group, const struct step *s)
{
    for (int i = 0; i < s->routes.n_needed; i++) {
        int slot = levels.slot_of[s->needed[i]];
        for (int k = 0; k < levels.n_missing; k++) {
            slot = levels.missing[k] == s->needed[i] ? levels.slots[k] : slot;
        }
        for (int p = 0; p < 3 && slot >= 0; p++) {
            int weight = model->weights->groups[group].weight[p];
            assert_int_equal(device[weight].of[slot], s->needed[i]);
            check_unit(weight, s->needed[i], unit_at(weight, slot), "in the tier");
        }
    }
}

/* One step of a layer, as a run makes it; the layer stays open. */
static enum forebay_status open_step(int group, const struct step *s)
{
    enum forebay_status status = FOREBAY_OK;
    fb_levels_open(&levels, group, &s->routes);
    if (levels.fits) {
        for (int i = 0; i < s->routes.n_needed; i++) {
            assert_true(levels.slot_of[s->needed[i]] >= 0);
        }
        status = fb_levels_fill(&levels, NULL);
    } else if (levels.n_missing > 0) {
        status = pass_by(group, s);
    }
    if (status == FOREBAY_OK) {
        check_slots_in_use(group, s);
    }
    return status;
}

/* Returns the number of experts that missed the tier. */
static int run_layer(int group, const int *experts, int tokens, int picks)
{
    struct step s;
    make_step(&s, experts, tokens, picks);
    assert_int_equal(open_step(group, &s), FOREBAY_OK);
    int n_missing = levels.n_missing;
    fb_levels_close(&levels);
    return n_missing;
}

/* picks distinct experts below `of` for each token, in random order. */
static void random_tokens(int *experts, int tokens, int picks, int of)
{
    int all[EXPERTS];
    for (int i = 0; i < of; i++) {
        all[i] = i;
    }
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < picks; i++) {
            int k = i + (int)rnd_below((uint64_t)(of - i)), swap = all[k];
            all[k] = all[i];
            experts[t * picks + i] = all[i] = swap;
        }
    }
}

/* --- The naive model -------------------------------------------------------------------------- */

/* What RAM holds of each group: the experts used last, but first of all none that is above. */
static struct {
    int n_slots;
    uint64_t clock[LAYERS], last_use[LAYERS][EXPERTS];
    bool here[LAYERS][EXPERTS], above[LAYERS][EXPERTS], pinned[EXPERTS];
} ram;

static int count_here(int g)
{
    int n = 0;
    for (int e = 0; e < EXPERTS; e++) {
        n += ram.here[g][e];
    }
    return n;
}

/* Whether a is evicted before b. */
static bool goes_first(int g, int a, int b)
{
    return ram.above[g][a] != ram.above[g][b] ? ram.above[g][a]
                                              : ram.last_use[g][a] < ram.last_use[g][b];
}

/* Room for the expert; for one that is only offered, only if it is worth more. */
static void bring(int g, int expert, bool offered)
{
    int victim = -1;
    if (ram.here[g][expert]) {
        return;
    }
    for (int e = 0; e < EXPERTS && count_here(g) == ram.n_slots; e++) {
        if (ram.here[g][e] && !ram.pinned[e] && (victim < 0 || goes_first(g, e, victim))) {
            victim = e;
        }
    }
    if (count_here(g) == ram.n_slots) {
        if (victim < 0 || (offered && !goes_first(g, victim, expert))) {
            assert_true(offered);
            return;
        }
        ram.here[g][victim] = false;
    }
    ram.here[g][expert] = true;
    down_bytes -= offered ? slot_bytes(g) : 0; /* 0 after each step, if all came down */
}

static void note_lost(int g, const int *lost, int n_missing)
{
    for (int i = 0; i < n_missing; i++) {
        if (lost[i] >= 0) {
            ram.above[g][lost[i]] = false;
        }
    }
}

/* The expected result of a step that fits. `lost`: what was in the slots of the missing ones. */
static void expect_fill(int g, const int *missing, const int *lost, int n_missing)
{
    note_lost(g, lost, n_missing);
    for (int first = 0, n; first < n_missing; first += n) {
        n = n_missing - first < ram.n_slots ? n_missing - first : ram.n_slots;
        memset(ram.pinned, 0, sizeof ram.pinned);
        for (int i = first; i < first + n; i++) {
            ram.pinned[missing[i]] = true;
        }
        for (int i = first; i < first + n; i++) {
            bring(g, missing[i], false);
        }
        for (int i = first; i < first + n; i++) {
            if (lost[i] >= 0) {
                bring(g, lost[i], true);
            }
        }
        for (int i = first; i < first + n; i++) {
            ram.above[g][missing[i]] = true;
        }
    }
    memset(ram.pinned, 0, sizeof ram.pinned);
}

static void use(int g, const int *experts, int n)
{
    for (int i = 0; i < n; i++) {
        ram.last_use[g][experts[i]] = ++ram.clock[g];
    }
}

/* Where a batch passes by, or a step fails, the model is told what has a slot in RAM. */
static void learn(int g)
{
    down_bytes = 0;
    for (int e = 0; e < EXPERTS; e++) {
        ram.here[g][e] = fb_stream_has(stream, g, e, 0);
    }
}

/* Of the missing experts those are above that were filled. After a failure others may have slots;
 * they are absent. */
static void forget_unfilled(int g, const int *missing, const int *slot, int n_missing)
{
    for (int i = 0; i < n_missing; i++) {
        bool filled = slot[i] >= 0 && whole_in_slot(g, slot[i]) == missing[i];
        ram.above[g][missing[i]] = filled;
        for (int p = 0; p < 3 && !filled && slot[i] >= 0; p++) {
            device[model->weights->groups[g].weight[p]].of[slot[i]] = -1;
        }
    }
}

/* Every expert that RAM says to have is there with the right bytes, and so is what the device has
 * whole; nothing is read for that. */
static void check_everywhere(int g)
{
    uint64_t before = read_bytes(), stride;
    struct fb_lease lease = {.group = -1};
    int n_slots, *weights = model->weights->groups[g].weight;
    for (int e = 0; e < EXPERTS; e++) {
        assert_int_equal(fb_stream_has(stream, g, e, 0), ram.here[g][e]);
        if (!fb_stream_has(stream, g, e, ALL_PARTS)) {
            continue; /* after a failure there are some with a slot, but not all parts */
        }
        fb_stream_lease_begin(stream, &lease, g, &e, NULL, 1, ALL_PARTS);
        for (int p = 0; p < 3; p++) {
            assert_true(fb_stream_lease_ready(stream, &lease, p));
            const char *base = fb_stream_slots(stream, weights[p], &stride, &n_slots);
            check_unit(weights[p], e, base + (uint64_t)lease.slots[0] * stride, "in RAM");
        }
        fb_stream_lease_end(stream, &lease);
    }
    fb_lease_clear(&lease);
    assert_int_equal(read_bytes(), before);
    for (int s = 0; s < tier_slots[g]; s++) {
        int e = whole_in_slot(g, s);
        for (int p = 0; p < 3 && e >= 0; p++) {
            check_unit(weights[p], e, unit_at(weights[p], s), "in the tier");
        }
    }
}

/* Slots above that are given up: what they hold is offered to RAM. */
static void random_resize(int g)
{
    int n = 2 + (int)rnd_below(EXPERTS - 1);
    for (int s = n; s < tier_slots[g]; s++) {
        int expert = whole_in_slot(g, s);
        if (expert >= 0) {
            ram.above[g][expert] = false;
            bring(g, expert, true);
        }
    }
    fb_levels_resize(&levels, g, n);
    for (int p = 0; p < 3; p++) {
        int weight = model->weights->groups[g].weight[p];
        for (int s = n; s < EXPERTS; s++) {
            device[weight].of[s] = -1;
            memset(device[weight].units + (uint64_t)s * model->weights->weights[weight].unit_bytes,
                0xee, (size_t)model->weights->weights[weight].unit_bytes);
        }
    }
    tier_slots[g] = n;
    check_everywhere(g);
    assert_int_equal(down_bytes, 0);
}

/* A random step of both; some are batches, some fail. Returns whether it failed. */
static bool random_step(int g)
{
    int experts[MOST_ROWS], missing[EXPERTS], slot[EXPERTS], lost[EXPERTS], before[EXPERTS];
    int tokens = rnd_below(6) ? 1 : 1 + (int)rnd_below(12);
    struct step s;
    random_tokens(experts, tokens, 3, rnd_below(4) ? 12 : EXPERTS);
    make_step(&s, experts, tokens, 3);
    for (int k = 0; k < tier_slots[g]; k++) {
        before[k] = whole_in_slot(g, k);
    }
    bool failed = open_step(g, &s) != FOREBAY_OK, fits = levels.fits;
    int n_missing = levels.n_missing;
    for (int i = 0; i < n_missing; i++) {
        missing[i] = levels.missing[i];
        slot[i] = levels.slots[i];
        lost[i] = slot[i] >= 0 ? before[slot[i]] : -1;
        assert_true(slot[i] >= 0 || !fits);
    }
    fb_levels_close(&levels);
    use(g, fits ? s.needed : experts, fits ? s.routes.n_needed : 3 * tokens);
    if (fits) {
        expect_fill(g, missing, lost, n_missing);
    }
    if (!fits || failed) {
        note_lost(g, lost, n_missing);
        forget_unfilled(g, missing, slot, n_missing);
    }
    if (!fits || failed) {
        learn(g);
    }
    check_everywhere(g);
    assert_int_equal(down_bytes, 0);
    return failed;
}

static void test_random_steps_equal_the_model(void **state)
{
    (void)state;
    static const char *const methods[] = {"sync", "threads", "fault:sync,reorder=5,short=3",
        "fault:threads,reorder=9,short=2,eintr=3,eagain=5", "fault:sync,eio_every=37"};
    static const int sizes[][2] = {{3, 2}, {3, 8}, {5, 5}, {8, 3}, {8, 12}, {12, EXPERTS}};
    int failures = 0;
    for (size_t k = 0; k < 30; k++) {
        const int *size = sizes[k % 6];
        const char *method = methods[k / 6];
        start_levels(size[0], size[1], method);
        memset(&ram, 0, sizeof ram);
        ram.n_slots = size[1];
        random_state = 7 + k;
        for (int step = 0; step < 250; step++) {
            failures += random_step(step % LAYERS);
            if (k % 2 && rnd_below(20) == 0) {
                random_resize((int)rnd_below(LAYERS));
            }
        }
        struct fb_tier_stats s = fb_tier_stats(levels.tier);
        assert_true(s.hits > 0 && s.hits < s.requests);
    }
    assert_true(failures > 20);
}

/* --- What moves ------------------------------------------------------------------------------- */

/* Tokens that use the topic's experts, first .. first+n-1, in turn. */
static void use_topic(int group, int first, int n, int times)
{
    for (int k = 0; k < times; k++) {
        int token[3];
        for (int i = 0; i < 3; i++) {
            token[i] = first + (3 * k + i) % n;
        }
        run_layer(group, token, 1, 3);
    }
}

/* Tokens only, so nothing passes by: each miss of the tier is uploaded, and asked of the stream. */
static void test_uploads_are_the_misses(void **state)
{
    (void)state;
    uint64_t missed = 0;
    start_levels(6, 8, "sync");
    random_state = 3;
    for (int k = 0; k < 200; k++) {
        int experts[3];
        random_tokens(experts, 1, 3, 12);
        missed += (uint64_t)run_layer(1, experts, 1, 3);
        struct fb_tier_stats s = fb_tier_stats(levels.tier);
        assert_int_equal(s.requests - s.hits, missed);
        assert_int_equal(up_bytes, missed * slot_bytes(1));
    }
    struct fb_stream_stats below;
    fb_stream_stats(stream, &below);
    assert_int_equal(below.expert_requests, missed); /* the stream is asked for nothing else */
    assert_true(below.expert_hits > 0 && below.expert_hits < missed);
}

static int count_in_ram(int group, int first, int n)
{
    int there = 0;
    for (int e = first; e < first + n; e++) {
        there += fb_stream_has(stream, group, e, ALL_PARTS);
    }
    return there;
}

/* Topics of six experts; the tier has room for one, RAM for two and for the copies of one step. */
static void test_topics_sink_from_level_to_level(void **state)
{
    (void)state;
    start_levels(6, 15, "sync");
    use_topic(0, 0, 6, 40);
    uint64_t one = read_bytes(), up = up_bytes;
    assert_int_equal(up, 6 * slot_bytes(0));
    use_topic(0, 0, 6, 10); /* in the tier: asks nothing of the levels below */
    assert_int_equal(up_bytes, up);

    use_topic(0, 6, 6, 200);
    up = up_bytes;
    use_topic(0, 6, 6, 10); /* the new topic is in the tier ... */
    assert_int_equal(up_bytes, up);
    assert_int_equal(read_bytes(), 2 * one);
    assert_int_equal(count_in_ram(0, 0, 6), 6); /* ... the old one in RAM */
    use_topic(0, 0, 6, 2);
    assert_int_equal(up_bytes, up + 6 * slot_bytes(0));
    assert_int_equal(read_bytes(), 2 * one);

    use_topic(0, 6, 6, 200);
    use_topic(0, 12, 6, 200); /* a third one */
    assert_int_equal(read_bytes(), 3 * one);
    use_topic(0, 6, 6, 200); /* each of the three is in the tier or in RAM */
    use_topic(0, 0, 6, 200);
    assert_int_equal(read_bytes(), 3 * one);
    use_topic(0, 12, 6, 200);
    use_topic(0, 18, 6, 200); /* a fourth one */
    assert_int_equal(
        count_in_ram(0, 6, 6), 0); /* the one that was longest unused is on disk only */
    uint64_t before = read_bytes();
    use_topic(0, 6, 6, 200);
    assert_int_equal(read_bytes(), before + one);
}

/* Together the two levels hold all 16 experts, or nearly. */
static void test_hardly_any_expert_is_in_both(void **state)
{
    (void)state;
    int twice = 0;
    start_levels(8, 8, "sync");
    random_state = 5;
    for (int k = 0; k < 400; k++) {
        int experts[3];
        random_tokens(experts, 1, 3, 16);
        run_layer(0, experts, 1, 3);
        for (int s = 0; s < tier_slots[0] && k >= 100; s++) {
            twice += fb_stream_has(stream, 0, whole_in_slot(0, s), ALL_PARTS);
        }
    }
    assert_in_range(twice, 1, 300 * 8 / 3);
    assert_true(down_bytes > 0 && down_bytes < up_bytes);
}

/* The misses of a tier do not depend on the RAM behind it; more RAM reads less, and in the end each
 * expert once. */
static void test_more_ram_behind_a_tier_reads_less(void **state)
{
    (void)state;
    uint64_t last = UINT64_MAX, first = 0, up = 0;
    for (int slots = 3; slots <= EXPERTS; slots += 3) {
        start_levels(5, slots, "sync");
        random_state = 11;
        for (int k = 0; k < 300; k++) {
            int experts[3];
            random_tokens(experts, 1, 3, rnd_below(3) ? 8 : 16);
            run_layer(0, experts, 1, 3);
        }
        assert_true(read_bytes() <= last);
        last = read_bytes();
        first = first ? first : last;
        up = up ? up : up_bytes;
        assert_int_equal(up_bytes, up);
    }
    assert_true(last < first);
    uint64_t all = 0;
    for (int p = 0; p < 3; p++) {
        all += 16 * model->weights->weights[model->weights->groups[0].weight[p]].file_bytes;
    }
    assert_int_equal(last, all);
    assert_int_equal(down_bytes, 0); /* RAM still has all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_random_steps_equal_the_model, close_after),
        cmocka_unit_test_teardown(test_uploads_are_the_misses, close_after),
        cmocka_unit_test_teardown(test_topics_sink_from_level_to_level, close_after),
        cmocka_unit_test_teardown(test_hardly_any_expert_is_in_both, close_after),
        cmocka_unit_test_teardown(test_more_ram_behind_a_tier_reads_less, close_after),
    };
    return cmocka_run_group_tests_name("levels", tests, set_up, tear_down);
}
