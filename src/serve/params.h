/* params.h - sampling parameters as requests spell them. */
#ifndef FB_SERVE_PARAMS_H
#define FB_SERVE_PARAMS_H

#include "forebay.h"
#include "serve/fields.h"

#define FB_STOPS_MAX 16

/* Reads all sampling fields that are present, by the names that OpenAI, llama.cpp and Ollama share;
 * temperature from 0 to `temp_max`. */
void fb_params_sampling(
    struct fb_fields *fields, struct forebay_sampling *sampling, double temp_max);

/* Reads a stop string or a list of them into `stops`, as many as FB_STOPS_MAX. Returns how many.
 * The strings belong to the request's JSON. */
size_t fb_params_stops(struct fb_fields *fields, const char *name, const char *stops[FB_STOPS_MAX]);

#endif
