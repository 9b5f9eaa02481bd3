/*
 * test_tier.c - the tier alone, against lists of what each slot holds. test_levels.c has it above a
 * stream.
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
    int given[MOST]; /* in the open step: the slots that the missing experts get, or -1 */
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

/* One step of tier and model; the slots of missing experts are left empty. If the step does not
 * fit, only those get one that are worth it. */
static void open_both(struct naive *n, struct fb_tier *tier, int g, const struct fb_tier_need *need,
    int *slot_of, int *missing, int *n_missing, bool *fits)
{
    int evicted, k = 0, lost[MOST], *slots = n->given;
    bool pinned[MOST] = {false}, needed[MOST] = {false};
    *n_missing = fb_tier_open(tier, g, need, slot_of, missing, slots, lost, fits);
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
        int slot = *fits ? fb_cache_acquire(n->twin, g, e, &evicted)
                         : fb_cache_offer(n->twin, g, e, &evicted);
        assert_int_equal(slots[i], slot);
        assert_int_equal(slot_of[e], *fits ? slot : -1);
        assert_int_equal(lost[i], is_complete(n, g, slot) ? n->expert[g][slot] : -1);
        if (slot >= 0) {
            give_slot(n, g, e, slot, pinned);
            pinned[slot] = true;
            fb_cache_pin(n->twin, g, slot);
        }
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
    for (int p = n_parts[g] - 1; p >= 0; p--) {
        for (int i = 0; i < n_missing; i++) {
            if (n->given[i] >= 0 && (!fails || rnd_below(2))) {
                fill(n, tier, g, n->given[i], p);
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
    for (int i = 0; i < n_missing; i++) {
        for (int p = 0; p < n_parts[0] && n->given[i] >= 0; p++) {
            fill(n, tier, 0, n->given[i], p);
        }
    }
    fb_tier_close(tier, 0);
    return n_missing;
}

/* Slots for fewer experts than a step needs hold some of them. */
static void test_a_need_larger_than_the_slots_hits(void **state)
{
    (void)state;
    static const int all[] = {0, 1, 2, 3, 4, 5}, others[] = {7, 3, 6, 5, 1};
    struct naive n;
    struct fb_tier *tier = start(&n, 4);
    assert_int_equal(run_step(&n, tier, all, 6), 6);
    for (int k = 0; k < 20; k++) {
        assert_int_equal(run_step(&n, tier, all, 6), 2);
    }
    run_step(&n, tier, others, 5);
    assert_in_range(run_step(&n, tier, all, 6), 2, 4);
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
    int slot_of[MOST], missing[MOST], slots[MOST], lost[MOST];
    bool fits;
    for (int g = 0; g < N_GROUPS - 1; g++) {
        const struct fb_tier_need need = {experts, uses, 4};
        assert_int_equal(fb_tier_open(tier, g, &need, slot_of, missing, slots, lost, &fits), 4);
        assert_true(fits);
        for (int i = 0; i < 4 * n_parts[g]; i++) {
            fb_tier_fill(tier, g, slot_of[i % 4], i / 4);
        }
    }
    for (int g = N_GROUPS - 2; g >= 0; g--) {
        fb_tier_close(tier, g);
        fb_tier_close(tier, g);
        const struct fb_tier_need need = {experts, uses, 4};
        assert_int_equal(fb_tier_open(tier, g, &need, slot_of, missing, slots, lost, &fits), 0);
        fb_tier_close(tier, g);
    }
    stop(&n, tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_steps_equal_the_model),
        cmocka_unit_test(test_a_need_larger_than_the_slots_hits),
        cmocka_unit_test(test_a_partly_filled_expert_is_absent),
        cmocka_unit_test(test_groups_are_apart),
    };
    return cmocka_run_group_tests_name("tier", tests, NULL, NULL);
}
