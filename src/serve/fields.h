/*
 * fields.h - reading a request's JSON, strictly: a field of the wrong type or out of range is the
 * client's mistake and is said so. null counts as absent.
 *
 *      struct st_fields f = {object};
 *      int64_t n = st_field_int(&f, "n", 1, 1, 16);
 *      ...
 *      if (f.bad) -> 400 with f.message: "n must be a whole number from 1 to 16"
 *
 * The first mistake is kept; what the functions return after it does not matter.
 */
#ifndef ST_SERVE_FIELDS_H
#define ST_SERVE_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct st_fields {
    json_t *object;
    bool bad;
    char message[256];
};

/* Parses a body that must be an object. Returns a new reference, or NULL with the mistake in
 * `fields`. */
json_t *st_fields_parse(struct st_fields *fields, const char *body, size_t n);

void st_fields_fail(struct st_fields *fields, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

json_t *st_field(const struct st_fields *fields, const char *name); /* NULL: absent */
bool st_field_bool(struct st_fields *fields, const char *name, bool otherwise);
int64_t st_field_int(
    struct st_fields *fields, const char *name, int64_t otherwise, int64_t min, int64_t max);
double st_field_number(
    struct st_fields *fields, const char *name, double otherwise, double min, double max);
/* Borrowed; NUL-terminated and without a NUL inside. */
const char *st_field_string(struct st_fields *fields, const char *name, const char *otherwise);
json_t *st_field_array(struct st_fields *fields, const char *name);  /* NULL: absent */
json_t *st_field_object(struct st_fields *fields, const char *name); /* NULL: absent */

#endif
