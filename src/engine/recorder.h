/*
 * recorder.h - records which experts the tokens of a session use, as a routing trace
 * (model/trace.h).
 *
 *      begin ---> the pass is computed; note: experts of each row of each layer ---> write
 *
 * A layer that computed all rows of the pass gives the experts of all its tokens. A layer that
 * computed a single row, as the last one does for a prompt, gives those of the last token.
 */
#ifndef FB_ENGINE_RECORDER_H
#define FB_ENGINE_RECORDER_H

#include "model/weights.h"

struct fb_recorder;

/* Creates the file. E_IO when it cannot be created. */
enum forebay_status fb_recorder_new(const struct fb_weights *weights, const char *path,
    struct fb_recorder **out, struct forebay_error *err);

/* A row of the pass uses these experts of the group (see fb_route_fn). Ignored outside of begin and
 * write. NULL is fine. */
void fb_recorder_note(struct fb_recorder *recorder, int group, const int *experts, int n);

/* Completes the file, frees the recorder and reports the first failure since it was made: E_IO, or
 * E_UNSUPPORTED for routes that a trace cannot hold. NULL is fine. */
enum forebay_status fb_recorder_close(struct fb_recorder *recorder, struct forebay_error *err);

/* Begins a pass; forgets the rows of one that failed. NULL is fine, here and below. */
void fb_recorder_begin(struct fb_recorder *recorder);

/* Writes the n tokens of the computed pass and flushes them, so that the file of a killed process
 * ends with a whole pass. `prompt`: as in the trace. */
void fb_recorder_write(struct fb_recorder *recorder, const int32_t *tokens, size_t n, bool prompt);

#endif
