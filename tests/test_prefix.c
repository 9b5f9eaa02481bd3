/* test_prefix.c - the table of sequences against a naive model of it, with random steps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/prefix.h"

#define N_SEQ 5
#define LONG  40

struct naive {
    int32_t tokens[LONG];
    uint32_t n, n_exact;
    bool busy;
};

static uint32_t naive_common(const struct naive *s, const int32_t *tokens, uint32_t n)
{
    for (uint32_t length = n < s->n ? n : s->n; length > 0; length--) {
        if (memcmp(s->tokens, tokens, length * sizeof *tokens) == 0) {
            return length;
        }
    }
    return 0;
}

/* The longest match that may be reused must be found, an idle sequence before a busy one. */
static void check_find(const struct fb_prefix *p, const struct naive *model, uint32_t piece)
{
    int32_t wanted[LONG];
    uint32_t n = (uint32_t)rand() % LONG, best = 0, got;
    bool idle_best = false;
    int from = rand() % N_SEQ;
    for (uint32_t i = 0; i < n; i++) {
        bool same = i < model[from].n && rand() % 8;
        wanted[i] = same ? model[from].tokens[i] : rand() % 3;
    }
    for (int i = 0; i < N_SEQ; i++) {
        uint32_t common = naive_common(&model[i], wanted, n);
        while (piece > 0 && (common > model[i].n_exact || common % piece != 0)) {
            common--;
        }
        if (common == 0 || common < p->seqs[i].shortest) {
            continue;
        }
        idle_best =
            common > best ? !model[i].busy : idle_best || (common == best && !model[i].busy);
        best = common > best ? common : best;
    }
    int seq = fb_prefix_find(p, wanted, n, piece, &got);
    assert_int_equal(got, best);
    assert_int_equal(seq >= 0, best > 0);
    if (seq >= 0) {
        assert_true(naive_common(&model[seq], wanted, n) >= best);
        assert_int_equal(!model[seq].busy, idle_best);
    }
}

static void test_random_steps(void **state)
{
    (void)state;
    struct fb_prefix p;
    struct naive model[N_SEQ] = {0};
    fb_prefix_init(&p, N_SEQ);
    srand(1);
    for (int step = 0; step < 20000; step++) {
        int seq = rand() % N_SEQ;
        struct naive *m = &model[seq];
        switch (rand() % 4) {
        case 0:
            m->busy = p.seqs[seq].busy = !m->busy;
            break;
        case 1:
            m->n = m->n ? (uint32_t)rand() % m->n : 0;
            m->n_exact = m->n_exact < m->n ? m->n_exact : m->n;
            fb_prefix_cut(&p, seq, m->n);
            break;
        default:
            for (int i = rand() % 6; i > 0 && m->n < LONG; i--) {
                int32_t token = rand() % 3;
                m->tokens[m->n++] = token;
                fb_prefix_add(&p, seq, &token, 1);
            }
        }
        if (rand() % 4 == 0) {
            m->n_exact = p.seqs[seq].n_exact = m->n;
        }
        p.seqs[seq].shortest = rand() % 2 ? m->n : (uint32_t)rand() % (m->n + 1);
        assert_int_equal(p.seqs[seq].n, m->n);
        assert_int_equal(p.seqs[seq].n_exact, m->n_exact);
        check_find(&p, model, (uint32_t)step % 4);
    }
    fb_prefix_release(&p);
}

static void test_victims(void **state)
{
    (void)state;
    struct fb_prefix p;
    const int32_t tokens[] = {1, 2, 3};
    fb_prefix_init(&p, 3);
    assert_int_equal(fb_prefix_victim(&p, -1), 0);
    assert_int_equal(fb_prefix_oldest(&p, -1), -1);
    for (int i = 0; i < 3; i++) {
        fb_prefix_add(&p, i, tokens, 3);
        fb_prefix_touch(&p, i);
    }
    assert_int_equal(fb_prefix_victim(&p, -1), 0);
    assert_int_equal(fb_prefix_victim(&p, 0), 1);
    fb_prefix_touch(&p, 0);
    assert_int_equal(fb_prefix_victim(&p, -1), 1);
    p.seqs[1].busy = true;
    assert_int_equal(fb_prefix_victim(&p, -1), 2);
    fb_prefix_cut(&p, 0, 0);
    assert_int_equal(fb_prefix_victim(&p, -1), 0); /* empty ones first */
    assert_int_equal(fb_prefix_oldest(&p, -1), 2);
    p.seqs[0].busy = p.seqs[2].busy = true;
    assert_int_equal(fb_prefix_victim(&p, -1), -1);
    fb_prefix_release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_steps),
        cmocka_unit_test(test_victims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
