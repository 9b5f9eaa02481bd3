/*
 * gguf_writer.h - writes a synthetic model to one GGUF file, or to a split set.
 *
 * Requests rows from a source in file order, in chunks of whole rows, and writes each byte once. It
 * writes to new files PATH.NUMBER.tmp and renames them when complete; on any failure it removes
 * them. E_USAGE if a file to write is one of the inputs.
 */
#ifndef FB_SYNTH_GGUF_WRITER_H
#define FB_SYNTH_GGUF_WRITER_H

#include "synth/gguf_model.h"
#include "synth/synth.h"

/* Provides the rows of a model. Rows are numbered over all dimensions but the first. */
struct fb_synth_source {
    /* Writes rows [row, row + n) of tensor number `tensor`. */
    enum forebay_status (*rows)(
        void *user, int tensor, int64_t row, int64_t n, void *out, struct forebay_error *err);
    /* Optional: number of rows from `row` on that stay holes in the file; 0 when `row` is data. */
    int64_t (*hole)(void *user, int tensor, int64_t row);
    void *user;
};

/* Fills path and file_bytes of the report (may be NULL). E_USAGE when the path is unsuitable, E_IO,
 * E_CANCELLED, and the errors of the source. */
enum forebay_status fb_synth_write(const struct fb_synth_model *model,
    const struct fb_synth_source *source, const struct fb_synth_output *output, const char *path,
    struct fb_synth_report *report, struct forebay_error *err);

#endif
