#include "stream/unpack.h"

#include <string.h>

#include "base/error.h"

static enum fb_unpack_kind kind_of(const struct fb_unpacker *a, int weight)
{
    return a->weights->weights[weight].unpack;
}

enum forebay_status fb_unpacker_verify(struct fb_unpacker *a, const struct fb_io_request *read,
    int weight, int unit, struct forebay_error *err)
{
    const struct forebay_error *failed = read->state == FB_IO_FAILED ? &read->error : NULL;
    if (a->check && kind_of(a, weight) == FB_UNPACK_DIRECT) {
        char *data = (char *)read->buffer + fb_io_delta(read->offset);
        uint64_t before = fb_io_now_ns(a->io);
        enum forebay_status status = a->check(a->user, weight, unit, data, failed, err);
        a->spent_ns += fb_io_now_ns(a->io) - before;
        return status;
    }
    if (failed && err) {
        *err = *failed;
    }
    return failed ? failed->status : FOREBAY_OK;
}

void fb_unpacker_run(struct fb_unpacker *a, const struct fb_unpack *arrivals, int n)
{
    if (fb_io_is_virtual(a->io)) {
        return; /* there is nothing to put anywhere */
    }
    uint64_t before = fb_io_now_ns(a->io);
    if (a->arrive && kind_of(a, arrivals[0].weight) != FB_UNPACK_DIRECT) {
        a->arrive(a->user, arrivals, n);
    } else {
        for (int i = 0; i < n; i++) {
            FB_ASSERT(kind_of(a, arrivals[i].weight) != FB_UNPACK_REPACK);
            memcpy(arrivals[i].dest, arrivals[i].raw,
                a->weights->weights[arrivals[i].weight].file_bytes);
        }
    }
    a->spent_ns += fb_io_now_ns(a->io) - before;
}
