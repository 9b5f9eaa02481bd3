#include "stream/arrival.h"

#include <string.h>

#include "base/error.h"

static enum st_arrival_kind kind_of(const struct st_arriver *a, int weight)
{
    return a->weights->weights[weight].arrival;
}

enum strata_status st_arriver_judge(struct st_arriver *a, const struct st_io_request *read,
    int weight, int unit, struct strata_error *err)
{
    const struct strata_error *failed = read->state == ST_IO_FAILED ? &read->error : NULL;
    if (a->check && kind_of(a, weight) == ST_ARRIVE_DIRECT) {
        char *data = (char *)read->buffer + st_io_delta(read->offset);
        uint64_t before = st_io_now_ns(a->io);
        enum strata_status status = a->check(a->user, weight, unit, data, failed, err);
        a->spent_ns += st_io_now_ns(a->io) - before;
        return status;
    }
    if (failed && err) {
        *err = *failed;
    }
    return failed ? failed->status : STRATA_OK;
}

void st_arriver_put(struct st_arriver *a, const struct st_arrival *arrivals, int n)
{
    if (st_io_is_virtual(a->io)) {
        return; /* there is nothing to put anywhere */
    }
    uint64_t before = st_io_now_ns(a->io);
    if (a->arrive && kind_of(a, arrivals[0].weight) != ST_ARRIVE_DIRECT) {
        a->arrive(a->user, arrivals, n);
    } else {
        for (int i = 0; i < n; i++) {
            ST_ASSERT(kind_of(a, arrivals[i].weight) != ST_ARRIVE_TRANSFORM);
            memcpy(arrivals[i].dest, arrivals[i].raw,
                a->weights->weights[arrivals[i].weight].file_bytes);
        }
    }
    a->spent_ns += st_io_now_ns(a->io) - before;
}
