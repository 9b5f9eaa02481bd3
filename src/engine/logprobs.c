/* logprobs.c - probabilities of tokens, from the logits before any sampling. */
#include <math.h>

#include "base/error.h"
#include "engine/session.h"

/* Inserts the entry into top[0 .. *have - 1], sorted with the likeliest first, at most n. */
static void insert(
    struct forebay_logprob *top, size_t *have, size_t n, struct forebay_logprob entry)
{
    if (*have == n && top[n - 1].logprob >= entry.logprob) {
        return;
    }
    size_t at = *have < n ? (*have)++ : n - 1;
    while (at > 0 && top[at - 1].logprob < entry.logprob) {
        top[at] = top[at - 1];
        at--;
    }
    top[at] = entry;
}

void forebay_logprobs(struct forebay_session *session, size_t row, int32_t token, float *chosen,
    struct forebay_logprob *top, size_t n)
{
    const float *logits = forebay_logits(session, row);
    int n_vocab = forebay_model_n_vocab(session->model);
    float max = -INFINITY;
    double sum = 0;
    size_t have = 0;
    FB_ASSERT(token >= 0 && token < n_vocab && n <= (size_t)n_vocab);
    for (int i = 0; i < n_vocab; i++) {
        max = fmaxf(max, logits[i]);
    }
    for (int i = 0; i < n_vocab; i++) {
        sum += exp((double)logits[i] - (double)max);
        if (n > 0) {
            insert(top, &have, n, (struct forebay_logprob){i, logits[i]});
        }
    }
    float log_sum = (float)(log(sum) + (double)max);
    *chosen = logits[token] - log_sum;
    for (size_t i = 0; i < n; i++) {
        top[i].logprob -= log_sum;
    }
}
