#include "plan/ffns.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

bool fb_ffns_has(const struct fb_catalog *catalog, const struct fb_tensor *t)
{
    return catalog->n_expert == 0 && t->role == FB_ROLE_DENSE_FFN && t->layer >= 0 &&
           t->layer < catalog->n_layer;
}

bool fb_ffns_better_apart(
    const struct fb_catalog *catalog, uint64_t whole_bytes, uint64_t bytes, int n_layers)
{
    return n_layers == catalog->n_layer && bytes >= whole_bytes;
}

/* "ffn_up.weight" of "blk.7.ffn_up.weight", the name of a tensor in a layer. */
static const char *base_name(const struct fb_tensor *t)
{
    char layer[32];
    snprintf(layer, sizeof layer, ".%d.", t->layer);
    const char *at = strstr(t->name, layer);
    return at ? at + strlen(layer) : t->name;
}

/* Whether an earlier layer's tensor has the same name. */
static bool is_listed(const struct fb_catalog *catalog, int end, int tensor)
{
    const char *base = base_name(&catalog->tensors[tensor]);
    for (int i = 0; i < tensor; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        if (fb_ffns_has(catalog, t) && t->layer < end && strcmp(base_name(t), base) == 0) {
            return true;
        }
    }
    return false;
}

/* Appends an alternative that matches the name literally. Returns the end of the text. */
static char *append_name(char *to, bool first, const char *name)
{
    if (!first) {
        *to++ = '|';
    }
    for (; *name; name++) {
        if (!isalnum((unsigned char)*name) && *name != '_') {
            *to++ = '\\';
        }
        *to++ = *name;
    }
    *to = 0;
    return to;
}

/* "ffn_up\\.weight|ffn_down\\.weight"; NULL: there are none. */
static char *names(const struct fb_catalog *catalog, int end)
{
    size_t cap = 1;
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        cap += fb_ffns_has(catalog, t) && t->layer < end ? 2 * strlen(t->name) + 1 : 0;
    }
    char *text = fb_xmalloc(cap), *to = text;
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        if (fb_ffns_has(catalog, t) && t->layer < end && !is_listed(catalog, end, i)) {
            to = append_name(to, to == text, base_name(t));
        }
    }
    if (to == text) {
        free(text);
        return NULL;
    }
    return text;
}

char *fb_ffns_pattern(const struct fb_catalog *catalog, int end)
{
    char *tensors = names(catalog, end);
    if (!tensors) {
        return NULL;
    }
    size_t cap = strlen(tensors) + (size_t)end * 12 + 32, used = 0;
    char *text = fb_xmalloc(cap);
    used += (size_t)snprintf(text, cap, "^blk\\.(");
    for (int l = 0; l < end; l++) {
        used += (size_t)snprintf(text + used, cap - used, "%s%d", l > 0 ? "|" : "", l);
    }
    snprintf(text + used, cap - used, ")\\.(%s)$", tensors);
    free(tensors);
    return text;
}
