/* fifo.h - where the next piece goes in a ring of memory whose pieces lie one after another. */
#ifndef FB_STREAM_FIFO_H
#define FB_STREAM_FIFO_H

#include <stdbool.h>
#include <stdint.h>

/* The pieces in use occupy [first, end), possibly wrapped once around the end of the memory of
 * `bytes` (then end <= first); none do if `empty`. False when there is no room for `size`. */
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
