/*
 * fields.h - reads a request's JSON strictly: a field of the wrong type or out of range is an error
 * of the client, with a message for it. null counts as absent, unknown fields are ignored.
 *
 *      struct fb_fields f = {object};
 *      int64_t n = fb_field_int(&f, "n", 1, 1, 16);
 *      ...
 *      if (f.bad) -> 400 with f.message: "n must be an integer from 1 to 16, not 40"
 *
 * Errors are sticky: the first one is stored, and later calls may return anything in range.
 */
#ifndef FB_SERVE_FIELDS_H
#define FB_SERVE_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct fb_fields {
    json_t *object; /* borrowed */
    bool bad;
    char message[256];
    const char *code; /* of the error, as OpenAI's clients know it; or NULL */
    int status;       /* HTTP's, of an error that is not the request's; 0: 400 */
};

/* Parses a body, which must be an object, and initializes *fields. Returns a new reference, or NULL
 * with the error in *fields. */
json_t *fb_fields_parse(struct fb_fields *fields, const char *body, size_t n);

/* Stores an error, unless there is one. */
void fb_fields_fail(struct fb_fields *fields, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Values are borrowed from the object. `otherwise` is returned if the field is absent or bad. */
json_t *fb_field(const struct fb_fields *fields, const char *name); /* any type; NULL: absent */
bool fb_field_bool(struct fb_fields *fields, const char *name, bool otherwise);
/* Real numbers without a fraction, such as 1.0 and 1e3, are integers, too. */
int64_t fb_field_int(
    struct fb_fields *fields, const char *name, int64_t otherwise, int64_t min, int64_t max);
double fb_field_number(
    struct fb_fields *fields, const char *name, double otherwise, double min, double max);
/* A name or the like: without a NUL inside, which is an error. */
const char *fb_field_string(struct fb_fields *fields, const char *name, const char *otherwise);
/* Text, which may contain a NUL: a JSON string with its length. NULL: absent or bad. */
json_t *fb_field_text(struct fb_fields *fields, const char *name);
json_t *fb_field_array(struct fb_fields *fields, const char *name);  /* NULL: absent or bad */
json_t *fb_field_object(struct fb_fields *fields, const char *name); /* NULL: absent or bad */

#endif
