/* fifo.h - placement of the next piece in a ring of memory whose pieces are contiguous. */
#ifndef FB_STREAM_FIFO_H
#define FB_STREAM_FIFO_H

#include <stdbool.h>
#include <stdint.h>

/* The pieces in use occupy [first, end) of `bytes` bytes of memory, possibly wrapped once around
 * its end (then end <= first); `empty` says that there are none. Sets *start to where a piece of
 * `size` bytes begins; false when there is no room for it. */
static inline bool fb_fifo_place(
    uint64_t bytes, bool empty, uint64_t first, uint64_t end, uint64_t size, uint64_t *start)
{
    if (empty) {
        *start = 0;
        return size <= bytes;
    }
    if (end > first && bytes - end < size) {
        *start = 0;
        return size <= first;
    }
    *start = end;
    return end > first || first - end >= size;
}

#endif
