/*
 * batch.h - the experts of one layer for a batch that needs more of them than there are slots, or
 * many that are not there: hits are used where they are, misses pass through the transit.
 *
 *      begin ---> set: hits in their slots ---> set: misses in the transit ---> set ... ---> end
 *                 (again for each part: gate, up, down)
 *
 * Meanwhile the slots get the experts that the batch's last tokens used most, since what comes next
 * will use them again. Such a miss is put into a slot instead of a place next to the transit. The
 * slot's old expert, if the batch needs it, was computed with before: parts are replaced one by one.
 *
 * Contracts are those of st_stream_batch_* in stream.h.
 */
#ifndef ST_STREAM_BATCH_H
#define ST_STREAM_BATCH_H

#include "stream/experts.h"
#include "stream/transit.h"

struct st_batch;

struct st_batch *st_batch_new(
    struct st_arriver *arriver, struct st_experts *experts, struct st_transit *transit);
void st_batch_free(struct st_batch *b);

void st_batch_begin(struct st_batch *b, int weight, const struct st_routes *routes);
enum strata_status st_batch_next(
    struct st_batch *b, int weight, struct st_set *set, struct strata_error *err);
void st_batch_end(struct st_batch *b);

#endif
