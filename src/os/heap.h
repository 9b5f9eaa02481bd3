/* heap.h - how malloc keeps its free memory. */
#ifndef FB_OS_HEAP_H
#define FB_OS_HEAP_H

/* Makes all threads share one heap, so that memory that one of them frees serves the others, and
 * fb_heap_trim finds all of it. Before other threads exist. */
void fb_heap_share(void);

/* Returns memory that malloc holds without need to the system. Takes milliseconds for a large heap.
 * Thread-safe. */
void fb_heap_trim(void);

#endif
