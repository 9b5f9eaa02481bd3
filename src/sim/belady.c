#include "sim/belady.h"

#include <limits.h>
#include <stdlib.h>

#include "base/error.h"

#define NEVER INT_MAX

struct belady_slot {
    int id;
    int next;   /* step that needs it next */
    int needed; /* last step that needed it */
};

struct belady_state {
    const struct fb_belady_steps *steps;
    int *next;    /* [ids] next step that needs the same id */
    int *slot_of; /* [n_ids], -1: not present */
    struct belady_slot *slots;
    int n, n_slots; /* in use, in all */
};

/* For each element, the next step that needs its id. */
static int *next_uses(const struct fb_belady_steps *steps)
{
    int *next = fb_xcalloc(steps->first[steps->n_steps], sizeof *next);
    int *next_use = fb_xcalloc((size_t)steps->n_ids, sizeof *next_use);
    for (int i = 0; i < steps->n_ids; i++) {
        next_use[i] = NEVER;
    }
    for (int s = steps->n_steps - 1; s >= 0; s--) {
        for (size_t i = steps->first[s]; i < steps->first[s + 1]; i++) {
            next[i] = next_use[steps->ids[i]];
            next_use[steps->ids[i]] = s;
        }
    }
    free(next_use);
    return next;
}

/* The slot to evict in step s: one that the step does not need before one that it does, and among
 * these the one whose id is needed last. */
static int victim(const struct belady_state *st, int s)
{
    int best = 0;
    for (int i = 1; i < st->n; i++) {
        bool needed = st->slots[i].needed == s, best_needed = st->slots[best].needed == s;
        if (needed != best_needed ? best_needed : st->slots[i].next > st->slots[best].next) {
            best = i;
        }
    }
    return best;
}

static void place(struct belady_state *st, int s, size_t i)
{
    int id = st->steps->ids[i], to = st->n;
    if (st->n == st->n_slots) {
        to = victim(st, s);
        if (st->slots[to].needed == s && st->slots[to].next <= st->next[i]) {
            return; /* the step needs more ids than slots, and this id is needed last */
        }
        st->slot_of[st->slots[to].id] = -1;
    } else {
        st->n++;
    }
    st->slots[to] = (struct belady_slot){.id = id, .next = st->next[i], .needed = s};
    st->slot_of[id] = to;
}

void fb_belady(const struct fb_belady_steps *steps, int n_slots, bool *hit)
{
    FB_ASSERT(n_slots > 0);
    struct belady_state st = {.steps = steps, .next = next_uses(steps), .n_slots = n_slots};
    st.slots = fb_xcalloc((size_t)n_slots, sizeof *st.slots);
    st.slot_of = fb_xcalloc((size_t)steps->n_ids, sizeof *st.slot_of);
    for (int i = 0; i < steps->n_ids; i++) {
        st.slot_of[i] = -1;
    }
    for (int s = 0; s < steps->n_steps; s++) {
        for (size_t i = steps->first[s]; i < steps->first[s + 1]; i++) {
            int slot = st.slot_of[steps->ids[i]];
            hit[i] = slot >= 0;
            if (hit[i]) {
                st.slots[slot].next = st.next[i];
                st.slots[slot].needed = s;
            }
        }
        for (size_t i = steps->first[s]; i < steps->first[s + 1]; i++) {
            if (!hit[i]) {
                place(&st, s, i);
            }
        }
    }
    free(st.next);
    free(st.slot_of);
    free(st.slots);
}
