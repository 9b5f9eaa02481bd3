#include "serve/params.h"

/* A large seed is folded to 32 bits. A negative one asks for a random seed, as no seed does. */
static void read_seed(struct fb_fields *f, struct forebay_sampling *s)
{
    int64_t seed = fb_field_int(f, "seed", -1, INT64_MIN, INT64_MAX);
    if (seed >= 0) {
        s->seed = (uint32_t)((uint64_t)seed ^ ((uint64_t)seed >> 32));
    }
}

void fb_params_sampling(struct fb_fields *f, struct forebay_sampling *s, double temp_max)
{
    s->temp = (float)fb_field_number(f, "temperature", s->temp, 0, temp_max);
    s->top_p = (float)fb_field_number(f, "top_p", s->top_p, 0, 1);
    s->top_k = (int)fb_field_int(f, "top_k", s->top_k, -1, 1 << 30);
    s->min_p = (float)fb_field_number(f, "min_p", s->min_p, 0, 1);
    s->typical_p = (float)fb_field_number(f, "typical_p", s->typical_p, 0, 1);
    s->repeat_penalty = (float)fb_field_number(f, "repeat_penalty", s->repeat_penalty, 0.01, 100);
    s->repeat_last_n = (int)fb_field_int(f, "repeat_last_n", s->repeat_last_n, -1, 1 << 16);
    s->repeat_last_n = s->repeat_last_n < 0 ? 1 << 12 : s->repeat_last_n;
    s->frequency_penalty =
        (float)fb_field_number(f, "frequency_penalty", s->frequency_penalty, -2, 2);
    s->presence_penalty = (float)fb_field_number(f, "presence_penalty", s->presence_penalty, -2, 2);
    s->mirostat = (int)fb_field_int(f, "mirostat", s->mirostat, 0, 2);
    s->mirostat_tau = (float)fb_field_number(f, "mirostat_tau", s->mirostat_tau, 0, 1000);
    s->mirostat_eta = (float)fb_field_number(f, "mirostat_eta", s->mirostat_eta, 0, 1000);
    s->xtc_probability = (float)fb_field_number(f, "xtc_probability", s->xtc_probability, 0, 1);
    s->xtc_threshold = (float)fb_field_number(f, "xtc_threshold", s->xtc_threshold, 0, 1);
    s->dry_multiplier = (float)fb_field_number(f, "dry_multiplier", s->dry_multiplier, 0, 100);
    s->dry_base = (float)fb_field_number(f, "dry_base", s->dry_base, 0, 100);
    s->dry_allowed_length =
        (int)fb_field_int(f, "dry_allowed_length", s->dry_allowed_length, 0, 1 << 16);
    s->dry_penalty_last_n =
        (int)fb_field_int(f, "dry_penalty_last_n", s->dry_penalty_last_n, 0, 1 << 16);
    s->ignore_eos = fb_field_bool(f, "ignore_eos", s->ignore_eos);
    read_seed(f, s);
}

size_t fb_params_stops(struct fb_fields *f, const char *name, const char *stops[FB_STOPS_MAX])
{
    json_t *value = fb_field(f, name);
    size_t n = json_is_array(value) ? json_array_size(value) : 0;
    if (json_is_string(value)) {
        stops[0] = json_string_value(value);
        return 1;
    }
    if (value && !json_is_array(value)) {
        fb_fields_fail(f, "%s must be a string or a list of strings", name);
    } else if (n > FB_STOPS_MAX) {
        fb_fields_fail(f, "%s must be at most %d strings, not %zu", name, FB_STOPS_MAX, n);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        stops[i] = json_string_value(json_array_get(value, i));
        if (!stops[i]) {
            fb_fields_fail(f, "%s must be a string or a list of strings", name);
            return i;
        }
    }
    return n;
}
