#include "stream/unpack.h"

#include <string.h>

#include "base/error.h"

static enum fb_unpack_kind kind_of(const struct fb_unpacker *u, int weight)
{
    return u->weights->weights[weight].unpack;
}

enum forebay_status fb_unpacker_verify(struct fb_unpacker *u, const struct fb_io_request *read,
    int weight, int unit, struct forebay_error *err)
{
    const struct forebay_error *failed = read->state == FB_IO_FAILED ? &read->error : NULL;
    if (u->check && kind_of(u, weight) == FB_UNPACK_DIRECT) {
        char *data = (char *)read->buffer + fb_io_delta(read->offset);
        uint64_t before = fb_io_now_ns(u->io);
        enum forebay_status status = u->check(u->user, weight, unit, data, failed, err);
        u->spent_ns += fb_io_now_ns(u->io) - before;
        return status;
    }
    if (failed && err) {
        *err = *failed;
    }
    return failed ? failed->status : FOREBAY_OK;
}

void fb_unpacker_run(struct fb_unpacker *u, const struct fb_unpack *units, int n)
{
    if (fb_io_is_virtual(u->io)) {
        return; /* no bytes were read */
    }
    uint64_t before = fb_io_now_ns(u->io);
    if (u->unpack && kind_of(u, units[0].weight) != FB_UNPACK_DIRECT) {
        u->unpack(u->user, units, n);
    } else {
        for (int i = 0; i < n; i++) {
            FB_ASSERT(kind_of(u, units[i].weight) != FB_UNPACK_REPACK);
            memcpy(units[i].dest, units[i].raw, u->weights->weights[units[i].weight].file_bytes);
        }
    }
    u->spent_ns += fb_io_now_ns(u->io) - before;
}
