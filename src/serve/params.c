#include "serve/params.h"

#include <math.h>
#include <string.h>

/* A large seed is folded to 32 bits. A negative one asks for a random seed, as no seed does. An
 * integer beyond int64_t is a real number here; any fixed number made of it will do. */
static void read_seed(struct fb_fields *f, struct forebay_sampling *s)
{
    json_t *value = fb_field(f, "seed");
    double real = json_real_value(value);
    int64_t seed = fabs(real) >= 0x1p63 && floor(real) == real
                       ? (int64_t)fmod(fabs(real), 0x1p62 - 1)
                       : fb_field_int(f, "seed", -1, INT64_MIN, INT64_MAX);
    seed = real <= -0x1p63 ? -1 : seed;
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
    s->top_n_sigma = (float)fb_field_number(f, "top_n_sigma", s->top_n_sigma, -1, 100);
    s->min_keep = (int)fb_field_int(f, "min_keep", s->min_keep, 0, 1 << 16);
    s->dynatemp_range = (float)fb_field_number(f, "dynatemp_range", s->dynatemp_range, 0, 100);
    s->dynatemp_exponent =
        (float)fb_field_number(f, "dynatemp_exponent", s->dynatemp_exponent, 0, 100);
    double penalty = fb_field_number(f, "repetition_penalty", s->repeat_penalty, 0.01, 100);
    s->repeat_penalty = (float)fb_field_number(f, "repeat_penalty", penalty, 0.01, 100);
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
        stops[0] = fb_field_string(f, name, "");
        return 1;
    }
    if (value && !json_is_array(value)) {
        fb_fields_fail(f, "%s must be a string or a list of strings", name);
    } else if (n > FB_STOPS_MAX) {
        fb_fields_fail(f, "%s must be at most %d strings, not %zu", name, FB_STOPS_MAX, n);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *stop = json_array_get(value, i);
        stops[i] = json_string_value(stop);
        if (!stops[i] || strlen(stops[i]) != json_string_length(stop)) {
            fb_fields_fail(f, "%s must be a string or a list of strings, without U+0000", name);
            return i;
        }
    }
    return n;
}

int64_t fb_params_limit(struct fb_fields *f, const char *name, int64_t otherwise)
{
    json_t *value = fb_field(f, name);
    double number = json_number_value(value);
    if (number > INT32_MAX && (json_is_integer(value) || number <= 0x1p64)) {
        return INT32_MAX;
    }
    int64_t limit = fb_field_int(f, name, otherwise, -1, INT32_MAX);
    if (limit == 0) {
        fb_fields_fail(f, "%s must be at least 1, or -1 for no limit, not 0", name);
    }
    return limit;
}

/* --- Formats ------------------------------------------------------------------------------- */

/* The schema of a response_format; NULL: any text. New reference. */
static json_t *read_response_format(struct fb_fields *f, json_t *format)
{
    json_t *schema = json_object_get(format, "schema"), *named;
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!type) {
        fb_fields_fail(
            f, "response_format needs a type: \"text\", \"json_object\" or \"json_schema\"");
    } else if (strcmp(type, "json_object") == 0) {
        return schema && !json_is_null(schema) ? json_incref(schema)
                                               : json_pack("{s:s}", "type", "object");
    } else if (strcmp(type, "json_schema") == 0) {
        named = json_object_get(format, "json_schema");
        schema = named ? json_object_get(named, "schema") : schema;
        if (schema) {
            return json_incref(schema);
        }
        fb_fields_fail(f, "response_format: json_schema needs a schema");
    } else if (strcmp(type, "text") != 0) {
        fb_fields_fail(f, "response_format: unknown type \"%.40s\"", type);
    }
    return NULL;
}

void fb_params_format(struct fb_fields *f, json_t **schema, const char **grammar)
{
    json_t *format = fb_field_object(f, "response_format"), *direct = fb_field(f, "json_schema");
    *schema = format ? read_response_format(f, format) : NULL;
    *grammar = fb_field_string(f, "grammar", NULL);
    *grammar = *grammar && **grammar ? *grammar : NULL;
    if ((*schema != NULL) + (direct != NULL) + (*grammar != NULL) > 1) {
        fb_fields_fail(f, "response_format, json_schema and grammar exclude each other");
    }
    if (direct && !*schema) {
        *schema = json_incref(direct);
    }
    if (*schema && !json_is_object(*schema)) {
        fb_fields_fail(f, "the schema of the reply must be an object");
    }
}
