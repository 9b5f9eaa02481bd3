/*
 * recorder.h - writes which experts the tokens of a session use, as a routing trace (model/trace.h).
 *
 *      begin ---> the pass is computed: the device tells which experts each row needs ---> write
 *
 * A layer that computed all rows of the pass tells the experts of all its tokens; one that computed
 * a single row, as the last layer does for a prompt, those of the last token.
 */
#ifndef FB_ENGINE_RECORDER_H
#define FB_ENGINE_RECORDER_H

#include "model/weights.h"

struct fb_recorder;

/* Makes the file. E_IO. */
enum forebay_status fb_recorder_new(const struct fb_weights *weights, const char *path,
    struct fb_recorder **out, struct forebay_error *err);

/* A row of the pass uses these experts of the group (see fb_route_fn). NULL is fine. */
void fb_recorder_note(struct fb_recorder *recorder, int group, const int *experts, int n);

/* Completes the file. The first failure since the start is reported here. NULL is fine. */
enum forebay_status fb_recorder_close(struct fb_recorder *recorder, struct forebay_error *err);

/* Forgets the rows of a pass that failed. NULL is fine, here and below. */
void fb_recorder_begin(struct fb_recorder *recorder);

/* Writes the tokens of the pass that was computed, and hands them to the system: what a killed
 * process leaves behind ends with a whole pass. */
void fb_recorder_write(struct fb_recorder *recorder, const int32_t *tokens, size_t n, bool prompt);

#endif
