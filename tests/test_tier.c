/*
 * test_tier.c - the tier alone, against lists of what each slot holds; and above a stream, against
 * the file's bytes, as a run uses the two (gpu/gpu_walk.c). The tier's memory is an array here.
 */
#include "weights_fixture.h"

#include "cache/cache.h"
#include "cache/tier.h"

/* --- The tier alone: the naive model ---------------------------------------------------------- */

#define N_GROUPS 4
#define MOST     16 /* experts of a group */

static const int n_experts[N_GROUPS] = {8, 16, 5, 12}, n_parts[N_GROUPS] = {3, 1, 2, 3};

/* What each slot holds. `twin` is a cache of the same policy that gets the calls that the tier
 * should make: it tells which victims to expect. Its pools are the groups except the last. */
struct naive {
    int n_slots[N_GROUPS];
    int expert[N_GROUPS][MOST]; /* -1: free */
    uint32_t parts[N_GROUPS][MOST];
    uint64_t requests, hits;
    struct fb_cache *twin;
};

/* The last group is not in the tier. */
static struct fb_tier *start(struct naive *n, int slots)
{
    *n = (struct naive){.n_slots = {slots, slots + 1, slots < 5 ? slots : 5, 0}};
    memset(n->expert, -1, sizeof n->expert);
    n->twin = fb_cache_new(N_GROUPS - 1, n_experts, n->n_slots, fb_cache_policy("echo"));
    struct fb_tier *tier = fb_tier_new(N_GROUPS, n_experts, n_parts, n->n_slots);
    for (int g = 0; g < N_GROUPS; g++) {
        assert_int_equal(fb_tier_slots(tier, g), n->n_slots[g]);
    }
    return tier;
}

static void stop(struct naive *n, struct fb_tier *tier)
{
    fb_tier_free(tier);
    fb_cache_free(n->twin);
}

static int slot_with(const struct naive *n, int g, int expert)
{
    int found = -1;
    for (int s = 0; s < n->n_slots[g]; s++) {
        if (n->expert[g][s] == expert) {
            assert_int_equal(found, -1); /* no expert is in two slots */
            found = s;
        }
    }
    return found;
}

static bool is_complete(const struct naive *n, int g, int slot)
{
    return slot >= 0 && n->parts[g][slot] == (1u << n_parts[g]) - 1;
}

/* A missing expert gets a slot: its own if it has one, else a free one, else one that is not
 * pinned by this step. */
static void give_slot(struct naive *n, int g, int expert, int slot, const bool *pinned)
{
    int own = slot_with(n, g, expert);
    bool any_free = false;
    for (int s = 0; s < n->n_slots[g]; s++) {
        any_free |= n->expert[g][s] < 0;
    }
    assert_in_range(slot, 0, n->n_slots[g] - 1);
    assert_false(pinned[slot]);
    assert_true(own < 0 || slot == own);
    assert_true(own >= 0 || !any_free || n->expert[g][slot] < 0);
    n->expert[g][slot] = expert;
    n->parts[g][slot] = 0;
}

/* One step of tier and model; the slots of missing experts are left empty. */
static void open_both(struct naive *n, struct fb_tier *tier, int g, const struct fb_tier_need *need,
    int *slot_of, int *missing, int *n_missing, bool *fits)
{
    int evicted, k = 0;
    bool pinned[MOST] = {false}, needed[MOST] = {false};
    *n_missing = fb_tier_open(tier, g, need, slot_of, missing, fits);
    assert_int_equal(*fits, need->n <= n->n_slots[g]);
    fb_cache_step(n->twin, g);
    for (int i = 0; i < need->n; i++) {
        int e = need->experts[i], slot = slot_with(n, g, e);
        needed[e] = true;
        fb_cache_touch(n->twin, g, e);
        n->requests += (uint64_t)need->uses[i];
        if (is_complete(n, g, slot)) {
            assert_int_equal(slot_of[e], slot);
            n->hits += (uint64_t)need->uses[i];
            pinned[slot] = true;
            fb_cache_pin(n->twin, g, slot);
        } else {
            assert_true(k < *n_missing);
            assert_int_equal(missing[k++], e);
        }
    }
    assert_int_equal(k, *n_missing);
    for (int i = 0; i < *n_missing; i++) {
        int e = missing[i];
        if (!*fits) {
            assert_int_equal(slot_of[e], -1);
            continue;
        }
        assert_int_equal(slot_of[e], fb_cache_acquire(n->twin, g, e, &evicted));
        give_slot(n, g, e, slot_of[e], pinned);
        pinned[slot_of[e]] = true;
        fb_cache_pin(n->twin, g, slot_of[e]);
    }
    for (int e = 0; e < n_experts[g]; e++) {
        assert_true(needed[e] || slot_of[e] == -1);
    }
    for (int s = 0; s < n->n_slots[g]; s++) {
        if (pinned[s]) {
            fb_cache_unpin(n->twin, g, s);
        }
    }
}

static void fill(struct naive *n, struct fb_tier *tier, int g, int slot, int part)
{
    fb_tier_fill(tier, g, slot, part);
    n->parts[g][slot] |= 1u << part;
}

/* n distinct experts in random order. */
static void choose(int *experts, int *uses, int n, int of)
{
    int all[MOST];
    for (int i = 0; i < of; i++) {
        all[i] = i;
    }
    for (int i = 0; i < n; i++) {
        int k = i + (int)rnd_below((uint64_t)(of - i)), swap = all[k];
        all[k] = all[i];
        experts[i] = all[i] = swap;
        uses[i] = 1 + (int)rnd_below(3);
    }
}

static void check_stats(const struct naive *n, const struct fb_tier *tier)
{
    struct fb_tier_stats stats = fb_tier_stats(tier);
    assert_int_equal(stats.requests, n->requests);
    assert_int_equal(stats.hits, n->hits);
}

/* A random step. One in four fails on its way: some of its parts are never filled. */
static void random_step(struct naive *n, struct fb_tier *tier)
{
    int experts[MOST], uses[MOST], slot_of[MOST], missing[MOST], n_missing;
    int g = (int)rnd_below(N_GROUPS - 1), most = n->n_slots[g] + 2;
    int count = 1 + (int)rnd_below((uint64_t)(most < n_experts[g] ? most : n_experts[g]));
    bool fits, fails = rnd_below(4) == 0;
    choose(experts, uses, count, n_experts[g]);
    const struct fb_tier_need need = {experts, uses, count};
    open_both(n, tier, g, &need, slot_of, missing, &n_missing, &fits);
    for (int p = n_parts[g] - 1; p >= 0 && fits; p--) {
        for (int i = 0; i < n_missing; i++) {
            if (!fails || rnd_below(2)) {
                fill(n, tier, g, slot_of[missing[i]], p);
            }
        }
    }
    fb_tier_close(tier, g);
    check_stats(n, tier);
}

static void test_random_steps_equal_the_model(void **state)
{
    (void)state;
    for (int slots = 1; slots <= 8; slots++) {
        struct naive n;
        struct fb_tier *tier = start(&n, slots);
        random_state = (uint64_t)slots;
        for (int k = 0; k < 3000; k++) {
            random_step(&n, tier);
        }
        assert_true(n.hits > 0 && n.hits < n.requests);
        stop(&n, tier);
    }
}

/* Opens a step of group 0 and fills what is missing. Returns the number of missing experts. */
static int run_step(struct naive *n, struct fb_tier *tier, const int *experts, int count)
{
    static const int uses[MOST] = {1, 1, 1, 1, 1, 1, 1, 1};
    int slot_of[MOST], missing[MOST], n_missing;
    bool fits;
    const struct fb_tier_need need = {experts, uses, count};
    open_both(n, tier, 0, &need, slot_of, missing, &n_missing, &fits);
    for (int i = 0; i < n_missing && fits; i++) {
        for (int p = 0; p < n_parts[0]; p++) {
            fill(n, tier, 0, slot_of[missing[i]], p);
        }
    }
    fb_tier_close(tier, 0);
    return n_missing;
}

static void test_a_need_larger_than_the_slots_changes_nothing(void **state)
{
    (void)state;
    static const int held[] = {0, 1, 2, 3}, many[] = {7, 3, 6, 5, 1}, all[] = {0, 1, 2, 3, 4, 5};
    struct naive n;
    struct fb_tier *tier = start(&n, 4);
    assert_int_equal(run_step(&n, tier, held, 4), 4);
    for (int k = 0; k < 20; k++) {
        assert_int_equal(run_step(&n, tier, many, 5), 3);
        assert_int_equal(run_step(&n, tier, all, 6), 2);
    }
    assert_int_equal(run_step(&n, tier, held, 4), 0);
    check_stats(&n, tier);
    stop(&n, tier);
}

/* An expert whose last part is missing is absent, keeps its slot, and is filled anew. */
static void test_a_partly_filled_expert_is_absent(void **state)
{
    (void)state;
    static const int experts[] = {2, 5}, uses[] = {1, 2};
    struct naive n;
    struct fb_tier *tier = start(&n, 4);
    int slot_of[MOST], missing[MOST], n_missing, first = -1;
    const struct fb_tier_need need = {experts, uses, 2};
    bool fits;
    for (int most = 0; most <= n_parts[0]; most++) { /* parts that are filled */
        open_both(&n, tier, 0, &need, slot_of, missing, &n_missing, &fits);
        assert_int_equal(n_missing, most == 0 ? 2 : 1);
        first = most == 0 ? slot_of[2] : first;
        assert_int_equal(slot_of[2], first);
        for (int p = 0; p < n_parts[0]; p++) {
            fill(&n, tier, 0, slot_of[5], p);
            if (p < most) {
                fill(&n, tier, 0, slot_of[2], p);
            }
        }
        fb_tier_close(tier, 0);
    }
    assert_int_equal(run_step(&n, tier, experts, 2), 0);
    check_stats(&n, tier);
    stop(&n, tier);
}

/* A step that is open keeps its slots, whatever other groups do; closing twice does nothing. */
static void test_groups_are_apart(void **state)
{
    (void)state;
    static const int experts[] = {0, 1, 2, 3}, uses[] = {1, 1, 1, 1};
    struct naive n;
    struct fb_tier *tier = start(&n, 4);
    int slot_of[MOST], missing[MOST];
    bool fits;
    for (int g = 0; g < N_GROUPS - 1; g++) {
        const struct fb_tier_need need = {experts, uses, 4};
        assert_int_equal(fb_tier_open(tier, g, &need, slot_of, missing, &fits), 4);
        assert_true(fits);
        for (int i = 0; i < 4 * n_parts[g]; i++) {
            fb_tier_fill(tier, g, slot_of[i % 4], i / 4);
        }
    }
    for (int g = N_GROUPS - 2; g >= 0; g--) {
        fb_tier_close(tier, g);
        fb_tier_close(tier, g);
        const struct fb_tier_need need = {experts, uses, 4};
        assert_int_equal(fb_tier_open(tier, g, &need, slot_of, missing, &fits), 0);
        fb_tier_close(tier, g);
    }
    stop(&n, tier);
}

/* --- Above a stream --------------------------------------------------------------------------- */

#define LAYERS    2
#define EXPERTS   24
#define ALL_PARTS 7u
#define MOST_ROWS 64

static struct model own;
static struct model *model = &own;
static struct fb_stream *stream;
static struct fb_tier *tier;
static struct fb_lease lease = {.group = -1};
static unsigned char *device[MAX_TENSORS]; /* by weight: the units in the tier's slots */
static int tier_slots;
static uint64_t uploaded_bytes;

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
    fb_stream_free(stream);
    fb_tier_free(tier);
    fb_lease_clear(&lease);
    for (int w = 0; w < model->weights->n_weights; w++) {
        free(device[w]);
        device[w] = NULL;
    }
    stream = NULL;
    tier = NULL;
    return 0;
}

static int tear_down(void **state)
{
    close_after(state);
    model_close(model);
    return free_contents(state);
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
    tier = fb_tier_new(LAYERS, experts, parts, slots_above);
    tier_slots = on_device;
    uploaded_bytes = 0;
    for (int w = 0; w < model->weights->n_weights; w++) {
        device[w] = fb_xcalloc((size_t)on_device, model->weights->weights[w].unit_bytes);
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

static unsigned char *unit_at(int weight, int slot)
{
    return device[weight] + (uint64_t)slot * model->weights->weights[weight].unit_bytes;
}

static void check_unit(int weight, int expert, const void *unit, const char *where)
{
    if (!form_is_right(model, weight, expert, unit)) {
        fail_msg("weight %d, expert %d: wrong bytes %s", weight, expert, where);
    }
}

/* Brings missing experts from the stream into their slots, as many at a time as it leases. */
static void fill_missing(int group, const int *missing, int n_missing, const int *slot_of)
{
    static const int uses[EXPERTS] = {[0 ... EXPERTS - 1] = 1};
    int most = fb_stream_lease_limit(stream, group), n_slots;
    uint64_t stride;
    for (int i = 0, n; i < n_missing; i += n) {
        n = n_missing - i < most ? n_missing - i : most;
        fb_stream_lease_begin(stream, &lease, group, missing + i, uses, n, ALL_PARTS);
        for (int p = 0; p < 3; p++) {
            int weight = model->weights->groups[group].weight[p];
            uint64_t bytes = model->weights->weights[weight].unit_bytes;
            assert_int_equal(fb_stream_lease_wait(stream, &lease, p, NULL), FOREBAY_OK);
            const char *base = fb_stream_slots(stream, weight, &stride, &n_slots);
            for (int k = 0; k < n; k++) {
                int slot = slot_of[lease.experts[k]];
                memcpy(
                    unit_at(weight, slot), base + (uint64_t)lease.slots[k] * stride, (size_t)bytes);
                fb_tier_fill(tier, group, slot, p);
                uploaded_bytes += bytes;
            }
        }
        fb_stream_lease_end(stream, &lease);
    }
}

/* Notes the experts that the stream hands out, with the right bytes and none twice. */
static void pass_by(const struct fb_set *set, int weight, bool *handed)
{
    for (int k = 0; k < set->n; k++) {
        check_unit(weight, set->experts[k],
            (const char *)set->base + (uint64_t)set->index[k] * set->stride, "passing by");
        assert_false(handed[set->experts[k]]);
        handed[set->experts[k]] = true;
        uploaded_bytes += model->weights->weights[weight].unit_bytes;
    }
}

/* Goes through one matrix of the missing experts: all in the lease, or set by set. */
static void through_stream(int weight, int part, bool *handed)
{
    struct fb_set set = {0};
    if (lease.group >= 0) {
        assert_int_equal(fb_stream_lease_wait(stream, &lease, part, NULL), FOREBAY_OK);
        set.base = fb_stream_slots(stream, weight, &set.stride, &set.n_index);
        set.n = lease.n;
        set.experts = lease.experts;
        set.index = lease.slots;
        pass_by(&set, weight, handed);
        return;
    }
    do {
        assert_int_equal(fb_stream_sets_next(stream, weight, &set, NULL), FOREBAY_OK);
        pass_by(&set, weight, handed);
    } while (set.n > 0);
}

/* Asks the stream for all rows but those of experts in the tier: the missing ones pass by. */
static void in_sets(int group, const struct fb_routes *all, const int *missing, int n_missing,
    const int *slot_of, const int *uses_of)
{
    int experts[MOST_ROWS], uses[EXPERTS], n = all->tokens * all->picks;
    struct fb_routes routes = *all;
    for (int i = 0; i < n; i++) {
        experts[i] = slot_of[all->experts[i]] < 0 ? all->experts[i] : -1;
    }
    for (int i = 0; i < n_missing; i++) {
        uses[i] = uses_of[missing[i]];
    }
    routes.experts = experts;
    routes.needed = missing;
    routes.uses = uses;
    routes.n_needed = n_missing;
    fb_stream_layer_begin(stream, &lease, model->weights->groups[group].weight[0], &routes);
    for (int p = 0; p < 3; p++) {
        bool handed[EXPERTS] = {false};
        through_stream(model->weights->groups[group].weight[p], p, handed);
        for (int e = 0; e < EXPERTS; e++) {
            assert_int_equal(handed[e], uses_of[e] > 0 && slot_of[e] < 0);
        }
    }
    if (lease.group >= 0) {
        fb_stream_lease_end(stream, &lease);
    }
    fb_stream_sets_end(stream);
}

/* One step of a layer, as a run makes it. Returns the number of experts that missed the tier. */
static int run_layer(int group, const int *experts, int tokens, int picks)
{
    int uses_of[EXPERTS] = {0}, needed[EXPERTS], uses[EXPERTS], n = 0;
    int slot_of[EXPERTS], missing[EXPERTS];
    bool fits;
    for (int i = 0; i < tokens * picks; i++) {
        uses_of[experts[i]]++;
    }
    for (int e = 0; e < EXPERTS; e++) {
        if (uses_of[e]) {
            uses[n] = uses_of[e];
            needed[n++] = e;
        }
    }
    const struct fb_routes routes = {experts, tokens, picks, needed, uses, n};
    int n_missing =
        fb_tier_open(tier, group, &(struct fb_tier_need){needed, uses, n}, slot_of, missing, &fits);
    if (fits) {
        fill_missing(group, missing, n_missing, slot_of);
    } else if (n_missing > 0) {
        in_sets(group, &routes, missing, n_missing, slot_of, uses_of);
    }
    for (int i = 0; i < n; i++) { /* a device would compute with these now */
        for (int p = 0; p < 3 && slot_of[needed[i]] >= 0; p++) {
            int weight = model->weights->groups[group].weight[p];
            check_unit(weight, needed[i], unit_at(weight, slot_of[needed[i]]), "in the tier");
        }
    }
    fb_tier_close(tier, group);
    return n_missing;
}

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

static void random_token(int *experts, int picks, int of)
{
    int unused[MOST_ROWS];
    assert_true(of <= MOST);
    choose(experts, unused, picks, of);
}

static void test_experts_in_the_tier_have_the_right_bytes(void **state)
{
    (void)state;
    static const char *const methods[] = {"sync", "threads", "fault:sync,reorder=5,short=3",
        "fault:threads,reorder=9,short=2,eintr=3,eagain=5"};
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        start_levels(4 + (int)m, 3 + 2 * (int)m, methods[m]);
        random_state = 7 + m;
        for (int k = 0; k < 150; k++) {
            int experts[MOST_ROWS], tokens = rnd_below(5) ? 1 : 1 + (int)rnd_below(12);
            for (int t = 0; t < tokens; t++) {
                random_token(experts + (ptrdiff_t)t * 3, 3, MOST);
            }
            run_layer(k % LAYERS, experts, tokens, 3);
        }
        struct fb_tier_stats s = fb_tier_stats(tier);
        assert_true(s.hits > 0 && s.hits < s.requests);
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
        random_token(experts, 3, 12);
        missed += (uint64_t)run_layer(1, experts, 1, 3);
        struct fb_tier_stats s = fb_tier_stats(tier);
        assert_int_equal(s.requests - s.hits, missed);
        assert_int_equal(uploaded_bytes, missed * slot_bytes(1));
    }
    struct fb_stream_stats below;
    fb_stream_stats(stream, &below);
    assert_int_equal(below.expert_requests, missed); /* the stream is asked for nothing else */
    assert_true(below.expert_hits > 0 && below.expert_hits < missed);
}

static void check_in_ram(int group, int first, int n, bool expected)
{
    for (int e = first; e < first + n; e++) {
        assert_int_equal(fb_stream_has(stream, group, e, ALL_PARTS), expected);
    }
}

/* Three topics of six experts; the tier has room for one, the RAM for two. */
static void test_topics_sink_from_level_to_level(void **state)
{
    (void)state;
    start_levels(6, 12, "sync");
    use_topic(0, 0, 6, 40);
    uint64_t one = read_bytes(), up = uploaded_bytes;
    assert_int_equal(up, 6 * slot_bytes(0));
    use_topic(0, 0, 6, 10); /* in the tier: asks nothing of the levels below */
    assert_int_equal(uploaded_bytes, up);

    use_topic(0, 6, 6, 200);
    up = uploaded_bytes;
    use_topic(0, 6, 6, 10); /* the new topic is in the tier ... */
    assert_int_equal(uploaded_bytes, up);
    assert_int_equal(read_bytes(), 2 * one);
    check_in_ram(0, 0, 6, true); /* ... the old one in RAM */
    use_topic(0, 0, 6, 2);
    assert_int_equal(uploaded_bytes, up + 6 * slot_bytes(0));
    assert_int_equal(read_bytes(), 2 * one);

    use_topic(0, 6, 6, 200);
    use_topic(0, 12, 6, 200); /* a third one: the first was longest unused in RAM */
    use_topic(0, 18, 6, 200);
    up = uploaded_bytes;
    use_topic(0, 18, 6, 10);
    assert_int_equal(uploaded_bytes, up);
    check_in_ram(0, 0, 12, false);
    uint64_t before = read_bytes();
    use_topic(0, 0, 6, 2); /* from the disk */
    assert_int_equal(read_bytes(), before + one);
    assert_int_equal(uploaded_bytes, up + 6 * slot_bytes(0));
}

/* The misses of a tier do not depend on the RAM behind it, and more RAM never reads more. */
static void test_more_ram_behind_a_tier_reads_less(void **state)
{
    (void)state;
    uint64_t last = UINT64_MAX, first = 0, up = 0;
    for (int slots = 3; slots <= EXPERTS; slots += 3) {
        start_levels(5, slots, "sync");
        random_state = 11;
        for (int k = 0; k < 300; k++) {
            int experts[3];
            random_token(experts, 3, rnd_below(3) ? 8 : MOST);
            run_layer(0, experts, 1, 3);
        }
        assert_true(read_bytes() <= last);
        last = read_bytes();
        first = first ? first : last;
        up = up ? up : uploaded_bytes;
        assert_int_equal(uploaded_bytes, up);
    }
    assert_true(last < first);
    uint64_t all = 0;
    for (int p = 0; p < 3; p++) {
        all += MOST * model->weights->weights[model->weights->groups[0].weight[p]].file_bytes;
    }
    assert_int_equal(last, all); /* with room for all, each once */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_steps_equal_the_model),
        cmocka_unit_test(test_a_need_larger_than_the_slots_changes_nothing),
        cmocka_unit_test(test_a_partly_filled_expert_is_absent),
        cmocka_unit_test(test_groups_are_apart),
        cmocka_unit_test_teardown(test_experts_in_the_tier_have_the_right_bytes, close_after),
        cmocka_unit_test_teardown(test_uploads_are_the_misses, close_after),
        cmocka_unit_test_teardown(test_topics_sink_from_level_to_level, close_after),
        cmocka_unit_test_teardown(test_more_ram_behind_a_tier_reads_less, close_after),
    };
    return cmocka_run_group_tests_name("tier", tests, set_up, tear_down);
}
