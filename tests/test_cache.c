/*
 * test_cache.c - the cache against hand-worked examples and against a naive model.
 *
 * The model keeps no counts, clocks or indices: it writes down every touch and reads the whole list
 * again whenever it needs to know something. C1-C6 are the rules of cache.h. The policy echo has a
 * model of its own in test_cache_echo.c.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache/cache.h"
#include "random.h"

#define N_POOLS   3
#define MAX_KEYS  12
#define MAX_STEPS 400

static const char *const policy_names[] = {"lru", "lfu"};
#define N_POLICIES 2 /* with a naive model */

/* --- The naive model -------------------------------------------------------------------------- */

struct naive {
    bool count_uses; /* LFU, else LRU */
    int n_keys;
    int n_slots;
    int key[MAX_KEYS]; /* per slot; -1: free */
    int pins[MAX_KEYS];
    uint32_t parts[MAX_KEYS];
    int touched[MAX_STEPS]; /* every touch, oldest first */
    int n_touched;
    int n_steps;
    int guarded_until[MAX_KEYS]; /* this step; 0: not protected */
    bool above[MAX_KEYS];
};

static void naive_init(struct naive *m, bool count_uses, int n_keys, int n_slots)
{
    memset(m, 0, sizeof *m);
    m->count_uses = count_uses;
    m->n_keys = n_keys;
    m->n_slots = n_slots;
    for (int i = 0; i < MAX_KEYS; i++) {
        m->key[i] = -1;
    }
}

static int naive_find(const struct naive *m, int key)
{
    for (int i = 0; i < m->n_slots; i++) {
        if (m->key[i] == key) {
            return i;
        }
    }
    return -1;
}

static int naive_uses(const struct naive *m, int key)
{
    int uses = 0;
    for (int i = 0; i < m->n_touched; i++) {
        uses += m->touched[i] == key;
    }
    return uses;
}

static int naive_last(const struct naive *m, int key)
{
    int last = -1;
    for (int i = 0; i < m->n_touched; i++) {
        if (m->touched[i] == key) {
            last = i;
        }
    }
    return last;
}

static bool naive_protected(const struct naive *m, int key)
{
    return m->n_steps < m->guarded_until[key];
}

/* < 0: key a is evicted before key b; 0: both were never touched. An LFU that has seen less than
 * 128 uses gives no worth to a key that is above. */
static int naive_order(const struct naive *m, int a, int b)
{
    if (naive_protected(m, a) != naive_protected(m, b)) {
        return naive_protected(m, b) ? -1 : 1;
    }
    if (!m->count_uses && m->above[a] != m->above[b]) {
        return m->above[a] ? -1 : 1;
    }
    int uses_a = naive_uses(m, a) / (m->above[a] ? 128 : 1);
    int uses_b = naive_uses(m, b) / (m->above[b] ? 128 : 1);
    if (m->count_uses && uses_a != uses_b) {
        return uses_a - uses_b;
    }
    return naive_last(m, a) - naive_last(m, b);
}

static void naive_drop(struct naive *m, int slot)
{
    m->key[slot] = -1;
    m->parts[slot] = 0;
}

static int naive_acquire(struct naive *m, int key, bool offer, int *evicted)
{
    *evicted = -1;
    int slot = naive_find(m, key);
    if (slot >= 0) {
        return slot;
    }
    slot = naive_find(m, -1);
    if (slot < 0) {
        for (int i = 0; i < m->n_slots; i++) {
            if (m->pins[i] == 0 && (slot < 0 || naive_order(m, m->key[i], m->key[slot]) < 0)) {
                slot = i;
            }
        }
        if (slot < 0 || (offer && naive_order(m, m->key[slot], key) >= 0)) {
            return -1;
        }
        *evicted = m->key[slot];
        naive_drop(m, slot);
    }
    m->key[slot] = key;
    return slot;
}

/* --- Random sequences ------------------------------------------------------------------------- */

struct pair {
    struct fb_cache *cache;
    struct naive model[N_POOLS];
    uint64_t answers; /* hash of everything the cache answered */
};

static void pair_init(struct pair *p, int policy, uint64_t seed)
{
    int n_keys[N_POOLS], n_slots[N_POOLS];
    random_state = seed * 0x9E3779B97F4A7C15u + 1;
    for (int pool = 0; pool < N_POOLS; pool++) {
        n_keys[pool] = 1 + random_below(MAX_KEYS);
        n_slots[pool] = 1 + random_below(n_keys[pool]);
        naive_init(&p->model[pool], policy == 1, n_keys[pool], n_slots[pool]);
    }
    p->cache = fb_cache_new(N_POOLS, n_keys, n_slots, fb_cache_policy(policy_names[policy]));
    p->answers = 0;
}

static void note_answer(struct pair *p, int answer)
{
    p->answers = p->answers * 1099511628211u + (uint64_t)(answer + 2);
}

/* All that the interface shows of the cache equals the model; checks C1 on the way. */
static void compare(const struct pair *p)
{
    fb_cache_check(p->cache);
    for (int pool = 0; pool < N_POOLS; pool++) {
        const struct naive *m = &p->model[pool];
        int present = 0, occupied = 0;
        assert_int_equal(fb_cache_slots(p->cache, pool), m->n_slots);
        for (int e = 0; e < m->n_keys; e++) {
            assert_int_equal(fb_cache_find(p->cache, pool, e), naive_find(m, e));
            assert_int_equal(fb_cache_protected(p->cache, pool, e), naive_protected(m, e));
            assert_int_equal(fb_cache_above(p->cache, pool, e), m->above[e]);
            present += fb_cache_find(p->cache, pool, e) >= 0;
        }
        for (int s = 0; s < m->n_slots; s++) {
            assert_int_equal(fb_cache_key(p->cache, pool, s), m->key[s]);
            assert_int_equal(fb_cache_parts(p->cache, pool, s), m->parts[s]);
            occupied += fb_cache_key(p->cache, pool, s) >= 0;
        }
        assert_int_equal(present, occupied);
    }
}

static void do_offer(struct pair *p, int pool, int key)
{
    struct naive *m = &p->model[pool];
    int evicted = -7, expected_evicted;
    int slot = fb_cache_offer(p->cache, pool, key, &evicted);
    assert_int_equal(slot, naive_acquire(m, key, true, &expected_evicted));
    assert_int_equal(evicted, expected_evicted);
    assert_true(evicted < 0 || naive_order(m, evicted, key) < 0); /* C6 */
    note_answer(p, slot);
}

static void do_acquire(struct pair *p, int pool, int key)
{
    struct naive *m = &p->model[pool];
    struct naive before = *m;
    int evicted = -7, expected_evicted;
    int slot = fb_cache_acquire(p->cache, pool, key, &evicted);
    assert_int_equal(slot, naive_acquire(m, key, false, &expected_evicted));
    assert_int_equal(evicted, expected_evicted);
    if (evicted >= 0) { /* C2, in the words of the rule */
        assert_int_equal(before.pins[naive_find(&before, evicted)], 0);
        for (int s = 0; naive_protected(&before, evicted) && s < m->n_slots; s++) { /* C5 */
            assert_true(before.pins[s] > 0 || naive_protected(&before, before.key[s]));
        }
    }
    for (int s = 0; slot < 0 && s < m->n_slots; s++) { /* C3 */
        assert_true(before.pins[s] > 0);
    }
    note_answer(p, slot);
    note_answer(p, evicted);
}

static void do_resize(struct pair *p, int pool)
{
    struct naive *m = &p->model[pool];
    int n = 1 + random_below(m->n_keys);
    for (int s = n; s < m->n_slots; s++) {
        if (m->pins[s]) {
            return;
        }
    }
    for (int s = n; s < m->n_slots; s++) {
        naive_drop(m, s);
    }
    m->n_slots = n;
    fb_cache_resize(p->cache, pool, n);
}

static void do_move(struct pair *p, int pool, int from)
{
    struct naive *m = &p->model[pool];
    int to = naive_find(m, -1);
    if (to < 0 || m->pins[from]) {
        return;
    }
    m->key[to] = m->key[from];
    m->parts[to] = m->parts[from];
    if (from != to) {
        naive_drop(m, from);
    }
    fb_cache_move(p->cache, pool, from, to);
}

static void do_step(struct pair *p, int pool, int key)
{
    struct naive *m = &p->model[pool];
    int steps = random_below(3) + random_below(2) * random_below(40);
    if (random_below(2)) {
        m->n_steps++;
        fb_cache_step(p->cache, pool);
    } else {
        m->guarded_until[key] = steps ? m->n_steps + steps : 0;
        fb_cache_protect(p->cache, pool, key, steps);
    }
}

static void do_slot(struct pair *p, int pool, int slot, int what)
{
    struct naive *m = &p->model[pool];
    if (what == 0 && m->pins[slot] == 0) {
        naive_drop(m, slot);
        fb_cache_drop(p->cache, pool, slot);
    } else if (what == 1 && m->pins[slot] > 0) {
        m->pins[slot]--;
        fb_cache_unpin(p->cache, pool, slot);
    } else if (what == 2 && m->key[slot] >= 0) {
        m->pins[slot]++;
        fb_cache_pin(p->cache, pool, slot);
    } else if (what == 3 && m->key[slot] >= 0) {
        m->parts[slot] = (uint32_t)random_below(8);
        fb_cache_set_parts(p->cache, pool, slot, m->parts[slot]);
    }
}

static void do_something(struct pair *p)
{
    int pool = random_below(N_POOLS), dice = random_below(100);
    struct naive *m = &p->model[pool];
    /* Skewed, so that uses differ: the lower the number, the more often. */
    int key = random_below(1 + random_below(m->n_keys));
    int slot = random_below(m->n_slots);
    if (dice < 35) {
        m->touched[m->n_touched++] = key;
        m->guarded_until[key] = 0;
        fb_cache_touch(p->cache, pool, key);
    } else if (dice < 58) {
        do_acquire(p, pool, key);
    } else if (dice < 63) {
        do_offer(p, pool, key);
    } else if (dice < 65) {
        m->above[key] = !m->above[key];
        fb_cache_set_above(p->cache, pool, key, m->above[key]);
    } else if (dice < 75) {
        do_slot(p, pool, slot, 2);
    } else if (dice < 85) {
        do_slot(p, pool, slot, 1);
    } else if (dice < 88) {
        do_slot(p, pool, slot, 3);
    } else if (dice < 90) {
        do_slot(p, pool, slot, 0);
    } else if (dice < 92) {
        do_resize(p, pool);
    } else if (dice < 94) {
        do_move(p, pool, slot);
    } else {
        do_step(p, pool, key);
    }
}

static uint64_t play(int policy, uint64_t seed)
{
    struct pair p;
    pair_init(&p, policy, seed);
    compare(&p);
    for (int i = 0; i < MAX_STEPS; i++) {
        do_something(&p);
        compare(&p);
    }
    fb_cache_free(p.cache);
    return p.answers;
}

static void test_equals_naive_model(void **state)
{
    (void)state;
    for (int policy = 0; policy < N_POLICIES; policy++) {
        for (uint64_t seed = 1; seed <= 250; seed++) {
            play(policy, seed);
        }
    }
}

/* C4: the answers depend neither on the content of fresh memory nor on earlier caches. */
static void test_repeats_exactly(void **state)
{
    (void)state;
    for (int policy = 0; policy < N_POLICIES; policy++) {
        for (uint64_t seed = 1000; seed < 1010; seed++) {
            uint64_t first = play(policy, seed);
            void *dirt = malloc(512);
            memset(dirt, 0xA5, 512);
            free(dirt);
            assert_int_equal(first, play(policy, seed));
        }
    }
    assert_int_not_equal(play(0, 1000), play(0, 1001));
}

/* --- Worked examples -------------------------------------------------------------------------- */

static struct fb_cache *one_pool(const char *policy, int n_keys, int n_slots)
{
    return fb_cache_new(1, &n_keys, &n_slots, fb_cache_policy(policy));
}

/* Touches and acquires; returns the key that was evicted. */
static int use(struct fb_cache *cache, int key)
{
    int evicted;
    fb_cache_touch(cache, 0, key);
    assert_true(fb_cache_acquire(cache, 0, key, &evicted) >= 0);
    return evicted;
}

static void test_policies_have_names(void **state)
{
    (void)state;
    for (int i = 0; i < N_POLICIES; i++) {
        assert_non_null(fb_cache_policy(policy_names[i]));
    }
    assert_string_equal(fb_cache_policy_names(), "lru, lfu, echo");
    assert_ptr_not_equal(fb_cache_policy("lru"), fb_cache_policy("lfu"));
    assert_null(fb_cache_policy(""));
    assert_null(fb_cache_policy("lr"));
    assert_null(fb_cache_policy("lru, lfu"));
}

static void test_lru_evicts_oldest_use(void **state)
{
    (void)state;
    struct fb_cache *cache = one_pool("lru", 8, 3);
    assert_int_equal(use(cache, 1), -1);
    assert_int_equal(use(cache, 2), -1);
    assert_int_equal(use(cache, 3), -1);
    assert_int_equal(use(cache, 1), -1);
    assert_int_equal(use(cache, 4), 2);
    assert_int_equal(use(cache, 5), 3);
    assert_int_equal(use(cache, 2), 1);
    fb_cache_free(cache);
}

static void test_lfu_counts_while_absent(void **state)
{
    (void)state;
    enum { A, B, C };
    struct fb_cache *cache = one_pool("lfu", 3, 2);
    fb_cache_touch(cache, 0, A);
    fb_cache_touch(cache, 0, A);
    assert_int_equal(use(cache, A), -1); /* A 3 uses */
    assert_int_equal(use(cache, B), -1); /* B 1 */
    assert_int_equal(use(cache, C), B);  /* C 1 */
    assert_int_equal(use(cache, B), C);  /* B 2: its first use was not forgotten */
    fb_cache_touch(cache, 0, C);         /* C 2, absent */
    assert_int_equal(use(cache, C), B);  /* C 3 */
    assert_int_equal(use(cache, B), A);  /* B 3; A and C tie at 3, A is the older use */
    fb_cache_free(cache);
}

static void test_ties_go_to_the_lower_slot(void **state)
{
    (void)state;
    for (int i = 0; i < N_POLICIES; i++) {
        struct fb_cache *cache = one_pool(policy_names[i], 8, 3);
        int evicted;
        for (int e = 5; e <= 7; e++) {
            assert_int_equal(fb_cache_acquire(cache, 0, e, &evicted), e - 5);
        }
        assert_int_equal(fb_cache_acquire(cache, 0, 1, &evicted), 0);
        assert_int_equal(evicted, 5);
        fb_cache_touch(cache, 0, 1);
        assert_int_equal(fb_cache_acquire(cache, 0, 2, &evicted), 1);
        assert_int_equal(evicted, 6);
        fb_cache_free(cache);
    }
}

static void test_only_touch_teaches(void **state)
{
    (void)state;
    for (int i = 0; i < N_POLICIES; i++) {
        struct fb_cache *cache = one_pool(policy_names[i], 8, 2);
        use(cache, 1);
        use(cache, 2);
        for (int n = 0; n < 3; n++) { /* none of these calls makes 1 worth more */
            int evicted;
            int slot = fb_cache_acquire(cache, 0, 1, &evicted);
            assert_int_equal(slot, fb_cache_find(cache, 0, 1));
            fb_cache_pin(cache, 0, slot);
            fb_cache_set_parts(cache, 0, slot, 7);
            fb_cache_unpin(cache, 0, slot);
            fb_cache_step(cache, 0);
        }
        fb_cache_touch(cache, 0, 3);
        assert_int_equal(fb_cache_find(cache, 0, 3), -1);
        assert_int_equal(use(cache, 3), 1);
        fb_cache_free(cache);
    }
}

static void test_pins_nest_and_hold(void **state)
{
    (void)state;
    for (int i = 0; i < N_POLICIES; i++) {
        struct fb_cache *cache = one_pool(policy_names[i], 8, 2);
        int evicted = 0;
        use(cache, 1);
        use(cache, 2);
        fb_cache_pin(cache, 0, 0);
        fb_cache_pin(cache, 0, 0);
        fb_cache_pin(cache, 0, 1);
        assert_int_equal(fb_cache_acquire(cache, 0, 3, &evicted), -1); /* C3 */
        assert_int_equal(evicted, -1);
        assert_int_equal(
            fb_cache_acquire(cache, 0, 1, &evicted), 0); /* has a slot: needs no victim */
        fb_cache_unpin(cache, 0, 0);
        assert_int_equal(fb_cache_acquire(cache, 0, 3, &evicted), -1); /* still pinned once */
        assert_int_equal(fb_cache_find(cache, 0, 1), 0);
        fb_cache_unpin(cache, 0, 0);
        assert_int_equal(use(cache, 3), 1); /* C2: never the pinned 2 */
        assert_int_equal(use(cache, 4), 3);
        fb_cache_check(cache);
        fb_cache_free(cache);
    }
}

static void test_parts_belong_to_the_key(void **state)
{
    (void)state;
    struct fb_cache *cache = one_pool("lru", 8, 1);
    use(cache, 1);
    assert_int_equal(fb_cache_parts(cache, 0, 0), 0);
    fb_cache_set_parts(cache, 0, 0, 0x80000005u);
    use(cache, 1);
    assert_int_equal(fb_cache_parts(cache, 0, 0), 0x80000005u);
    assert_int_equal(use(cache, 2), 1);
    assert_int_equal(fb_cache_parts(cache, 0, 0), 0);
    fb_cache_set_parts(cache, 0, 0, 3);
    fb_cache_drop(cache, 0, 0);
    assert_int_equal(fb_cache_parts(cache, 0, 0), 0);
    assert_int_equal(fb_cache_key(cache, 0, 0), -1);
    assert_int_equal(fb_cache_find(cache, 0, 2), -1);
    fb_cache_drop(cache, 0, 0); /* a free slot may be dropped */
    fb_cache_check(cache);
    fb_cache_free(cache);
}

static void test_resize(void **state)
{
    (void)state;
    struct fb_cache *cache = one_pool("lfu", 8, 4);
    for (int e = 0; e < 4; e++) {
        use(cache, e);
    }
    use(cache, 3);
    fb_cache_pin(cache, 0, 1);
    fb_cache_resize(cache, 0, 2);
    assert_int_equal(fb_cache_slots(cache, 0), 2);
    assert_int_equal(fb_cache_find(cache, 0, 2), -1);
    assert_int_equal(fb_cache_find(cache, 0, 3), -1);
    assert_int_equal(use(cache, 3), 0); /* 1 is pinned; 3 keeps its two uses: */
    fb_cache_unpin(cache, 0, 1);
    assert_int_equal(use(cache, 2), 1);
    fb_cache_resize(cache, 0, 8);
    for (int e = 4; e < 8; e++) { /* room for all: nothing is evicted */
        assert_int_equal(use(cache, e), -1);
    }
    assert_int_equal(fb_cache_find(cache, 0, 3), 0);
    assert_int_equal(fb_cache_find(cache, 0, 7), 5);
    fb_cache_check(cache);
    fb_cache_free(cache);
}

static void test_protection_ends(void **state)
{
    (void)state;
    for (int i = 0; i < N_POLICIES; i++) {
        struct fb_cache *cache = one_pool(policy_names[i], 8, 2);
        fb_cache_protect(cache, 0, 1, 2); /* before it is present */
        use(cache, 2);
        use(cache, 2);
        int evicted;
        assert_int_equal(fb_cache_acquire(cache, 0, 1, &evicted), 1); /* prefetched, never used */
        assert_int_equal(use(cache, 3), 2);                           /* C5 */
        fb_cache_step(cache, 0);
        assert_true(fb_cache_protected(cache, 0, 1));
        assert_int_equal(use(cache, 4), 3);
        fb_cache_step(cache, 0); /* the second step: protection ends */
        assert_false(fb_cache_protected(cache, 0, 1));
        assert_int_equal(use(cache, 5), 1);

        fb_cache_protect(cache, 0, 4, 9);
        fb_cache_protect(cache, 0, 5, 9);
        assert_int_equal(use(cache, 6), 4); /* all are protected: the policy chooses */
        fb_cache_protect(cache, 0, 6, 9);
        fb_cache_protect(cache, 0, 5, 0);
        assert_int_equal(use(cache, 7), 5); /* protection ended by 0 */
        use(cache, 6);                      /* used: no longer protected */
        assert_false(fb_cache_protected(cache, 0, 6));
        fb_cache_check(cache);
        fb_cache_free(cache);
    }
}

static void test_slots_that_move(void **state)
{
    (void)state;
    struct fb_cache *cache = one_pool("lru", 8, 4);
    for (int e = 0; e < 3; e++) {
        use(cache, e);
        fb_cache_set_parts(cache, 0, e, (uint32_t)e + 1);
    }
    fb_cache_pin(cache, 0, 0);
    fb_cache_move(cache, 0, 2, 3);
    assert_int_equal(fb_cache_key(cache, 0, 2), -1);
    assert_int_equal(fb_cache_find(cache, 0, 2), 3);
    assert_int_equal(fb_cache_parts(cache, 0, 3), 3);
    assert_int_equal(fb_cache_parts(cache, 0, 2), 0);
    fb_cache_move(cache, 0, 2, 2); /* a free slot onto itself */
    assert_int_equal(use(cache, 7), -1);
    assert_int_equal(fb_cache_find(cache, 0, 7), 2);
    fb_cache_check(cache);
    fb_cache_free(cache);
}

/* --- Our bugs abort --------------------------------------------------------------------------- */

static struct fb_cache *victim_cache;

static void unpin_unpinned(void)
{
    fb_cache_unpin(victim_cache, 0, 0);
}

static void drop_pinned(void)
{
    fb_cache_pin(victim_cache, 0, 0);
    fb_cache_drop(victim_cache, 0, 0);
}

static void resize_below_pin(void)
{
    fb_cache_pin(victim_cache, 0, 1);
    fb_cache_resize(victim_cache, 0, 1);
}

static void resize_above_keys(void)
{
    fb_cache_resize(victim_cache, 0, 9);
}

static void pin_free_slot(void)
{
    fb_cache_pin(victim_cache, 0, 2);
}

static void parts_of_free_slot(void)
{
    fb_cache_set_parts(victim_cache, 0, 2, 1);
}

static void find_key_beyond(void)
{
    fb_cache_find(victim_cache, 0, 8);
}

static void touch_negative_key(void)
{
    fb_cache_touch(victim_cache, 0, -1);
}

static void slot_beyond_pool(void)
{
    fb_cache_key(victim_cache, 0, 3);
}

static void move_pinned(void)
{
    fb_cache_pin(victim_cache, 0, 0);
    fb_cache_move(victim_cache, 0, 0, 2);
}

static void move_onto_another(void)
{
    fb_cache_move(victim_cache, 0, 0, 1);
}

static void protect_for_less_than_nothing(void)
{
    fb_cache_protect(victim_cache, 0, 0, -1);
}

static void pool_beyond(void)
{
    fb_cache_step(victim_cache, 1);
}

static bool aborts(void (*f)(void))
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fclose(stderr);
        signal(SIGABRT, SIG_DFL);
        f();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_misuse_aborts(void **state)
{
    (void)state;
    void (*const misuse[])(void) = {unpin_unpinned, drop_pinned, resize_below_pin,
        resize_above_keys, pin_free_slot, parts_of_free_slot, find_key_beyond, touch_negative_key,
        slot_beyond_pool, pool_beyond, move_pinned, move_onto_another,
        protect_for_less_than_nothing};
    victim_cache = one_pool("lru", 8, 3);
    use(victim_cache, 1);
    use(victim_cache, 2);
    for (size_t i = 0; i < sizeof misuse / sizeof misuse[0]; i++) {
        if (!aborts(misuse[i])) {
            fail_msg("misuse %zu went unnoticed", i);
        }
    }
    fb_cache_free(victim_cache);
    fb_cache_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_policies_have_names),
        cmocka_unit_test(test_lru_evicts_oldest_use),
        cmocka_unit_test(test_lfu_counts_while_absent),
        cmocka_unit_test(test_ties_go_to_the_lower_slot),
        cmocka_unit_test(test_only_touch_teaches),
        cmocka_unit_test(test_pins_nest_and_hold),
        cmocka_unit_test(test_parts_belong_to_the_key),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_protection_ends),
        cmocka_unit_test(test_slots_that_move),
        cmocka_unit_test(test_misuse_aborts),
        cmocka_unit_test(test_equals_naive_model),
        cmocka_unit_test(test_repeats_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
