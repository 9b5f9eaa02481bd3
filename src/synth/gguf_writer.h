/*
 * gguf_writer.h - puts a made model into one GGUF file, or a split set.
 *
 * Bytes are asked for in file order, in chunks of whole rows, and written once. Everything goes to
 * new files PATH.NUMBER.tmp first, which are renamed when complete; on any failure they are removed.
 * E_USAGE if a file to write is one of the inputs.
 */
#ifndef FB_SYNTH_GGUF_WRITER_H
#define FB_SYNTH_GGUF_WRITER_H

#include "synth/gguf_model.h"
#include "synth/synth.h"

/* Where the rows of a model come from. Rows are numbered over all dimensions but the first. */
struct fb_synth_source {
    /* Writes rows [row, row + n) of tensor number `tensor`. */
    enum forebay_status (*rows)(
        void *user, int tensor, int64_t row, int64_t n, void *out, struct forebay_error *err);
    /* NULL, or: number of rows from `row` on that stay holes in the file; 0 when `row` is real. */
    int64_t (*hole)(void *user, int tensor, int64_t row);
    void *user;
};

/* Fills path and file_bytes of the report (may be NULL). */
enum forebay_status fb_synth_write(const struct fb_synth_model *model,
    const struct fb_synth_source *source, const struct fb_synth_output *output, const char *path,
    struct fb_synth_report *report, struct forebay_error *err);

#endif
