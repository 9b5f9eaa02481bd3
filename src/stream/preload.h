/* preload.h - reading every expert before the first token, where there is a slot for each. */
#ifndef ST_STREAM_PRELOAD_H
#define ST_STREAM_PRELOAD_H

#include "stream/stream.h"

/* A part of st_stream_load. Fills the slots of a stream whose pools have one for every expert: then
 * nothing is read while generating. Any other stream is left as it is. E_CANCELLED when `progress` said
 * to stop. */
enum strata_status st_preload(struct st_stream *stream, const struct st_weights *weights,
    strata_progress progress, void *progress_user, struct strata_error *err);

#endif
