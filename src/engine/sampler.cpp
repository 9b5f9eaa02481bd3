/*
 * sampler.cpp - chooses tokens with llama.cpp's samplers.
 *
 * Without penalties, biases and grammar, temperature 0 needs only the largest logit: a plain greedy
 * sampler, which looks at no history. Everything else is a common_sampler, whose parameters are
 * those of forebay_sampling under other names.
 */
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "common/sampling.h"
#include "engine/guard.h"
#include "engine/nesting.h"
#include "engine/prompt.h"
#include "engine/work_limit.h"

extern "C" {
#include "base/error.h"
#include "engine/session.h"
}

/* Processor time for a grammar: for making it, and for choosing tokens. What a token leaves of its
 * share is saved, up to the most. With a vocabulary of 150,000 tokens an honest grammar takes 20 to
 * 40 ms for a token. */
static const int64_t making_ns = 2000000000;
static const int64_t token_share_ns = 100000000;
static const int64_t most_ns = 500000000;

static const int64_t memory_max = 256 << 20;
static const size_t stack_max = 192 << 10; /* what any thread has left */

struct forebay_sampler {
    common_sampler *common = nullptr;
    bool has_grammar = false;
    int64_t saved_ns = most_ns;
    llama_sampler *greedy = nullptr; /* instead, when only the largest logit counts */

    ~forebay_sampler()
    {
        common_sampler_free(common);
        llama_sampler_free(greedy);
    }
};

static bool finite(const struct forebay_sampling *s)
{
    const float values[] = {s->temp, s->top_p, s->min_p, s->typical_p, s->top_n_sigma,
        s->repeat_penalty, s->frequency_penalty, s->presence_penalty, s->dry_multiplier,
        s->dry_base, s->xtc_probability, s->xtc_threshold, s->dynatemp_range, s->dynatemp_exponent,
        s->mirostat_tau, s->mirostat_eta};
    for (float value : values) {
        if (!std::isfinite(value)) {
            return false;
        }
    }
    return true;
}

static enum forebay_status check(
    const struct forebay_model *m, const struct forebay_sampling *s, struct forebay_error *err)
{
    if (!finite(s)) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "a sampling parameter is not a finite number");
    }
    if (!(s->temp >= 0) || !(s->repeat_penalty > 0)) {
        return fb_fail(err, FOREBAY_E_USAGE, "",
            "temperature %g and repeat penalty %g: must be at least 0 and above 0", (double)s->temp,
            (double)s->repeat_penalty);
    }
    if (s->mirostat < 0 || s->mirostat > 2) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "mirostat %d: must be 0, 1 or 2", s->mirostat);
    }
    for (size_t i = 0; i < s->n_biases; i++) {
        if (s->biases[i].token < 0 || s->biases[i].token >= llama_vocab_n_tokens(m->vocab) ||
            std::isnan(s->biases[i].bias)) {
            return fb_fail(err, FOREBAY_E_USAGE, "",
                "bias for token %d: not in the vocabulary of %d, or not a number",
                s->biases[i].token, llama_vocab_n_tokens(m->vocab));
        }
    }
    return FOREBAY_OK;
}

/* Whether only the largest logit counts. */
static bool only_greedy(const struct forebay_model *m, const struct forebay_sampling *s,
    const struct forebay_prompt *prompt)
{
    int32_t n_suppressed = 0;
    llama_vocab_get_suppress_tokens(m->vocab, &n_suppressed);
    return s->temp == 0 && s->mirostat == 0 && s->repeat_penalty == 1 &&
           s->frequency_penalty == 0 && s->presence_penalty == 0 && s->dry_multiplier == 0 &&
           s->n_biases == 0 && !s->ignore_eos && !s->grammar && n_suppressed == 0 &&
           (!prompt || prompt->grammar.empty());
}

static common_params_sampling convert(
    const struct forebay_sampling *s, const struct llama_vocab *vocab)
{
    common_params_sampling p;
    p.seed = s->seed;
    p.n_prev = std::max(64, s->repeat_last_n);
    p.min_keep = s->min_keep;
    p.top_k = s->top_k;
    p.top_p = s->top_p;
    p.min_p = s->min_p;
    p.typ_p = s->typical_p;
    p.top_n_sigma = s->top_n_sigma;
    p.xtc_probability = s->xtc_probability;
    p.xtc_threshold = s->xtc_threshold;
    p.temp = s->temp;
    p.dynatemp_range = s->dynatemp_range;
    p.dynatemp_exponent = s->dynatemp_exponent;
    p.penalty_last_n = s->repeat_last_n;
    p.penalty_repeat = s->repeat_penalty;
    p.penalty_freq = s->frequency_penalty;
    p.penalty_present = s->presence_penalty;
    p.dry_multiplier = s->dry_multiplier;
    p.dry_base = s->dry_base;
    p.dry_allowed_length = s->dry_allowed_length;
    p.dry_penalty_last_n = s->dry_penalty_last_n;
    p.mirostat = s->mirostat;
    p.mirostat_tau = s->mirostat_tau;
    p.mirostat_eta = s->mirostat_eta;
    p.no_perf = true;
    if (s->temp == 0) { /* the largest logit after penalties; truncation would only reorder ties */
        p.samplers = {COMMON_SAMPLER_TYPE_PENALTIES, COMMON_SAMPLER_TYPE_DRY,
            COMMON_SAMPLER_TYPE_TEMPERATURE};
        p.dynatemp_range = 0;
    }
    for (size_t i = 0; i < s->n_biases; i++) {
        p.logit_bias.push_back({s->biases[i].token, s->biases[i].bias});
    }
    for (llama_token t = 0; s->ignore_eos && t < llama_vocab_n_tokens(vocab); t++) {
        if (llama_vocab_is_eog(vocab, t)) {
            p.logit_bias.push_back({t, -INFINITY});
        }
    }
    return p;
}

/* The grammar of `s`, or else of the prompt. */
static void set_grammar(const struct forebay_sampling *s, const struct forebay_prompt *prompt,
    common_params_sampling &p)
{
    if (s->grammar && s->grammar[0]) {
        p.grammar = {COMMON_GRAMMAR_TYPE_USER, s->grammar};
    } else if (prompt && !prompt->grammar.empty()) {
        p.grammar = prompt->grammar;
        p.grammar_lazy = prompt->grammar_lazy;
        p.grammar_triggers = prompt->triggers;
        p.preserved_tokens = prompt->shown;
        p.generation_prompt = prompt->generation_prompt;
        p.reasoning_budget_start = prompt->thinking_start;
        p.reasoning_budget_end = prompt->thinking_ends;
    }
}

/* Throws for a grammar that cannot be used: common_sampler_init would leak its chain. */
static void check_grammar(const struct llama_vocab *vocab, const common_params_sampling &p)
{
    if (!p.grammar.empty()) {
        fb_check_grammar(p.grammar.grammar);
        llama_sampler *probe = llama_sampler_init_grammar(vocab, p.grammar.grammar.c_str(), "root");
        if (!probe) {
            throw std::invalid_argument("the grammar cannot be parsed");
        }
        llama_sampler_free(probe);
    }
}

enum forebay_status forebay_sampler_new(const struct forebay_model *m,
    const struct forebay_sampling *s, const struct forebay_prompt *prompt,
    struct forebay_sampler **out, struct forebay_error *err)
{
    enum forebay_status status = check(m, s, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    auto sampler = new forebay_sampler;
    status = fb_guarded_status(FOREBAY_E_USAGE, err, "", "make the sampler", [&] {
        if (only_greedy(m, s, prompt)) {
            sampler->greedy = llama_sampler_init_greedy();
            return true;
        }
        auto params = convert(s, m->vocab);
        set_grammar(s, prompt, params);
        sampler->has_grammar = !params.grammar.empty();
        try {
            fb_work_limit limit({making_ns, memory_max, stack_max});
            check_grammar(m->vocab, params);
            sampler->common = common_sampler_init(m->llama, params);
        } catch (const fb_too_much_work &) {
            throw fb_refusal(FOREBAY_E_USAGE, "the grammar is too large", "Simplify it.");
        }
        return sampler->common != nullptr;
    });
    if (status != FOREBAY_OK) {
        delete sampler;
        return status;
    }
    *out = sampler;
    return FOREBAY_OK;
}

void forebay_sampler_free(struct forebay_sampler *sampler)
{
    delete sampler;
}

void forebay_sampler_accept(struct forebay_sampler *sampler, int32_t token)
{
    if (sampler->common) {
        common_sampler_accept(sampler->common, token, false);
    }
}

static llama_token pick(struct forebay_sampler *sampler, struct llama_context *ctx, int32_t index)
{
    llama_token id = common_sampler_sample(sampler->common, ctx, index);
    common_sampler_accept(sampler->common, id, true);
    return id;
}

static llama_token pick_by_grammar(
    struct forebay_sampler *sampler, struct llama_context *ctx, int32_t index)
{
    try {
        fb_work_limit limit({sampler->saved_ns, memory_max, stack_max});
        llama_token id = pick(sampler, ctx, index);
        sampler->saved_ns = std::min(limit.cpu_left_ns() + token_share_ns, most_ns);
        return id;
    } catch (const fb_too_much_work &) {
        throw fb_refusal(FOREBAY_E_USAGE,
            "the grammar is too ambiguous: choosing the next token takes too long",
            "Let fewer alternatives begin with the same text.");
    }
}

enum forebay_status forebay_sampler_pick(struct forebay_sampler *sampler,
    struct forebay_session *session, size_t row, int32_t *token, struct forebay_error *err)
{
    struct llama_context *ctx = session->model->ctx;
    int32_t index = fb_session_row(session, row);
    fb_session_sampled(session);
    /* Only a grammar that leaves no token fails here: the mistake of its author. */
    return fb_guarded_status(FOREBAY_E_USAGE, err, "Correct the grammar.", "pick a token", [&] {
        if (sampler->greedy) {
            *token = llama_sampler_sample(sampler->greedy, ctx, index);
            return true;
        }
        *token =
            sampler->has_grammar ? pick_by_grammar(sampler, ctx, index) : pick(sampler, ctx, index);
        return true;
    });
}
