/*
 * fields.h - reading a request's JSON, strictly: a field of the wrong type or out of range is the
 * client's mistake and is said so. null counts as absent.
 *
 *      struct fb_fields f = {object};
 *      int64_t n = fb_field_int(&f, "n", 1, 1, 16);
 *      ...
 *      if (f.bad) -> 400 with f.message: "n must be a whole number from 1 to 16"
 *
 * The first mistake is kept; what the functions return after it does not matter.
 */
#ifndef FB_SERVE_FIELDS_H
#define FB_SERVE_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct fb_fields {
    json_t *object;
    bool bad;
    char message[256];
};

/* Parses a body that must be an object. Returns a new reference, or NULL with the mistake in
 * `fields`. */
json_t *fb_fields_parse(struct fb_fields *fields, const char *body, size_t n);

void fb_fields_fail(struct fb_fields *fields, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

json_t *fb_field(const struct fb_fields *fields, const char *name); /* NULL: absent */
bool fb_field_bool(struct fb_fields *fields, const char *name, bool otherwise);
int64_t fb_field_int(
    struct fb_fields *fields, const char *name, int64_t otherwise, int64_t min, int64_t max);
double fb_field_number(
    struct fb_fields *fields, const char *name, double otherwise, double min, double max);
/* Borrowed; NUL-terminated and without a NUL inside. */
const char *fb_field_string(struct fb_fields *fields, const char *name, const char *otherwise);
json_t *fb_field_array(struct fb_fields *fields, const char *name);  /* NULL: absent */
json_t *fb_field_object(struct fb_fields *fields, const char *name); /* NULL: absent */

#endif
