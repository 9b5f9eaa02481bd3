/*
 * writer.h - puts a made model into one GGUF file, or a split set.
 *
 * Bytes are asked for in file order, in chunks of whole rows, and written once. Everything goes to
 * PATH.tmp first and is renamed when complete; on any failure the temporary files are removed.
 */
#ifndef ST_SYNTH_WRITER_H
#define ST_SYNTH_WRITER_H

#include "synth/model.h"
#include "synth/synth.h"

/* Where the rows of a model come from. Rows are numbered over all dimensions but the first. */
struct st_synth_source {
    /* Writes rows [row, row + n) of tensor number `tensor`. */
    enum strata_status (*rows)(
        void *user, int tensor, int64_t row, int64_t n, void *out, struct strata_error *err);
    /* NULL, or: number of rows from `row` on that stay holes in the file; 0 when `row` is real. */
    int64_t (*hole)(void *user, int tensor, int64_t row);
    void *user;
};

/* Fills path and file_bytes of the report (may be NULL). */
enum strata_status st_synth_write(const struct st_synth_model *model,
    const struct st_synth_source *source, const struct st_synth_output *output, const char *path,
    struct st_synth_report *report, struct strata_error *err);

#endif
