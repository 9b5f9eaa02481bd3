/* params.h - sampling parameters as requests spell them. */
#ifndef FB_SERVE_PARAMS_H
#define FB_SERVE_PARAMS_H

#include "forebay.h"
#include "serve/fields.h"

#define FB_STOPS_MAX 256

/* Reads all sampling fields that are present, by the names that OpenAI, llama.cpp and Ollama share;
 * temperature from 0 to `temp_max`. */
void fb_params_sampling(
    struct fb_fields *fields, struct forebay_sampling *sampling, double temp_max);

/* Reads a stop string or a list of them into `stops`, as many as FB_STOPS_MAX. Returns how many.
 * The strings belong to the request's JSON. */
size_t fb_params_stops(struct fb_fields *fields, const char *name, const char *stops[FB_STOPS_MAX]);

/* Reads a limit for generated tokens: at least 1, or -1 for none. What is beyond int32_t is
 * reduced to it. */
int64_t fb_params_limit(struct fb_fields *fields, const char *name, int64_t otherwise);

/* Reads what the reply must follow: one of response_format, json_schema and grammar (the last two
 * are llama.cpp's). *schema: new reference or NULL. *grammar (GBNF): borrowed or NULL. */
void fb_params_format(struct fb_fields *fields, json_t **schema, const char **grammar);

#endif
