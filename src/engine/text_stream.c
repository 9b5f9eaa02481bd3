/*
 * text_stream.c - turns generated tokens into text: whole characters, up to a stop string.
 *
 *      returned | held: valid text, may become a stop string | begun: part of a character
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "engine/model.h"
#include "engine/prompt.h"

struct forebay_text {
    const struct forebay_model *model;
    const struct forebay_prompt *prompt;
    char **stops;
    size_t n_stops;
    const char *found; /* one of stops; NULL: none yet */
    char *held;        /* [n_held] */
    size_t n_held, cap_held;
    unsigned char begun[4];
    size_t n_begun;
    char *out; /* what the last call returned */
    size_t cap_out;
};

static void add_stop(struct forebay_text *t, const char *stop)
{
    if (stop[0]) {
        t->stops = fb_xrealloc(t->stops, (t->n_stops + 1) * sizeof *t->stops);
        t->stops[t->n_stops++] = fb_xstrdup(stop);
    }
}

enum forebay_status forebay_text_new(const struct forebay_model *model,
    const struct forebay_prompt *prompt, const char *const *stops, size_t n_stops,
    struct forebay_text **out, struct forebay_error *err)
{
    if (!forebay_model_has_text(model)) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "", "the model has no tokenizer");
    }
    struct forebay_text *t = fb_xcalloc(1, sizeof *t);
    t->model = model;
    t->prompt = prompt;
    for (size_t i = 0; i < n_stops; i++) {
        add_stop(t, stops[i]);
    }
    for (size_t i = 0; prompt && fb_prompt_stop(prompt, i); i++) {
        add_stop(t, fb_prompt_stop(prompt, i));
    }
    *out = t;
    return FOREBAY_OK;
}

void forebay_text_free(struct forebay_text *t)
{
    if (t) {
        for (size_t i = 0; i < t->n_stops; i++) {
            free(t->stops[i]);
        }
        free(t->stops);
        free(t->held);
        free(t->out);
        free(t);
    }
}

const char *forebay_text_stop(const struct forebay_text *t)
{
    return t->found;
}

/* --- Characters ---------------------------------------------------------------------------- */

static void hold(struct forebay_text *t, const void *bytes, size_t n)
{
    if (t->n_held + n > t->cap_held) {
        t->cap_held = 2 * (t->n_held + n) + 64;
        t->held = fb_xrealloc(t->held, t->cap_held);
    }
    memcpy(t->held + t->n_held, bytes, n);
    t->n_held += n;
}

static void hold_invalid(struct forebay_text *t)
{
    if (t->n_begun > 0) {
        hold(t, "\xef\xbf\xbd", 3);
        t->n_begun = 0;
    }
}

/* Bytes of a character that begins with this byte; 0: none does. */
static size_t length_of(unsigned char lead)
{
    return lead < 0x80                    ? 1
           : lead >= 0xc2 && lead <= 0xdf ? 2
           : lead >= 0xe0 && lead <= 0xef ? 3
           : lead >= 0xf0 && lead <= 0xf4 ? 4
                                          : 0;
}

/* Whether `byte` can continue the character that has begun: not an overlong form, a surrogate or
 * above U+10FFFF. */
static bool continues(const struct forebay_text *t, unsigned char byte)
{
    unsigned char lead = t->begun[0], low = 0x80, high = 0xbf;
    if (t->n_begun == 1) {
        low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : low;
        high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : high;
    }
    return byte >= low && byte <= high;
}

static void add_byte(struct forebay_text *t, unsigned char byte)
{
    if (t->n_begun > 0 && !continues(t, byte)) {
        hold_invalid(t);
    }
    t->begun[t->n_begun++] = byte;
    size_t length = length_of(t->begun[0]);
    if (length == 0) {
        hold_invalid(t);
    } else if (t->n_begun == length) {
        hold(t, t->begun, length);
        t->n_begun = 0;
    }
}

/* --- Stop strings -------------------------------------------------------------------------- */

static const char *find(const char *in, size_t n_in, const char *what, size_t n)
{
    for (size_t i = 0; i + n <= n_in; i++) {
        if (memcmp(in + i, what, n) == 0) {
            return in + i;
        }
    }
    return NULL;
}

/* Length of the held text that can be returned: up to the first stop string, which ends the text,
 * or to where one may have begun. */
static size_t returnable(struct forebay_text *t)
{
    size_t upto = t->n_held;
    for (size_t s = 0; s < t->n_stops; s++) {
        const char *at = find(t->held, t->n_held, t->stops[s], strlen(t->stops[s]));
        if (at && (!t->found || (size_t)(at - t->held) < upto)) {
            t->found = t->stops[s];
            upto = (size_t)(at - t->held);
        }
    }
    for (size_t s = 0; s < t->n_stops && !t->found; s++) {
        size_t n = strlen(t->stops[s]) - 1;
        for (n = n < t->n_held ? n : t->n_held; n > 0; n--) {
            if (memcmp(t->held + t->n_held - n, t->stops[s], n) == 0) {
                upto = upto < t->n_held - n ? upto : t->n_held - n;
                break;
            }
        }
    }
    return upto;
}

/* Moves the first `upto` bytes of the held text to `out`. */
static const char *take_held(struct forebay_text *t, size_t upto, size_t *n)
{
    if (t->cap_out <= upto) {
        t->cap_out = 2 * upto + 64;
        t->out = fb_xrealloc(t->out, t->cap_out);
    }
    if (upto > 0) {
        memcpy(t->out, t->held, upto);
        memmove(t->held, t->held + upto, t->n_held - upto);
        t->n_held -= upto;
    }
    t->out[upto] = 0;
    *n = upto;
    return t->out;
}

/* --- Tokens -------------------------------------------------------------------------------- */

const char *forebay_text_add(struct forebay_text *t, int32_t token, size_t *n)
{
    char small[256], *piece = small;
    bool special = t->prompt && fb_prompt_shows(t->prompt, token);
    if (t->found || token < 0 || token >= forebay_model_n_vocab(t->model)) {
        return take_held(t, 0, n);
    }
    int32_t got = llama_token_to_piece(t->model->vocab, token, piece, sizeof small, 0, special);
    if (got < 0) {
        piece = fb_xmalloc((size_t)-got);
        got = llama_token_to_piece(t->model->vocab, token, piece, -got, 0, special);
    }
    for (int32_t i = 0; i < got; i++) {
        add_byte(t, (unsigned char)piece[i]);
    }
    if (piece != small) {
        free(piece);
    }
    return take_held(t, returnable(t), n);
}

const char *forebay_text_end(struct forebay_text *t, size_t *n)
{
    if (t->found) {
        return take_held(t, 0, n);
    }
    hold_invalid(t);
    size_t upto = returnable(t);
    return take_held(t, t->found ? upto : t->n_held, n);
}
