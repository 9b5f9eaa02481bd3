/*
 * memory_watch.h - gives memory of a stream back while the model runs, and uses it again later;
 * and says how many threads should compute.
 *
 *      the watch's thread   looks at the memory, decides how much the weights may hold
 *                           (plan/governor.h) and sets the stream's target; it adapts the stream
 *                           to it when no graph is computed, or while one computes with what
 *                           stays (open leases, resident weights)
 *      the computing thread adapts the stream (fb_stream_adapt) where it holds no pointer into it
 *
 * Every 100 ms it also sees how much of the processors others use (plan/thread_governor.h).
 *
 * So a long computation does not delay giving back what it does not use, and what it uses is given
 * back as soon as it is done.
 */
#ifndef FB_BACKEND_MEMORY_WATCH_H
#define FB_BACKEND_MEMORY_WATCH_H

#include "os/cpu_use.h"
#include "stream/stream.h"

struct fb_memory_watch;

/* Watches from now on, when the stream is made and not loaded: its memory is still to be allocated.
 * The calling thread owns the stream until it calls fb_memory_watch_loaded, and adapts it itself.
 * Without a thread for it, memory stays as planned. NULL is accepted below. `before` is a reading of
 * the processors' use from before the model was loaded. */
struct fb_memory_watch *fb_memory_watch_start(
    struct fb_stream *stream, int n_threads, const struct fb_cpu_use *before);
void fb_memory_watch_loaded(struct fb_memory_watch *watch);
void fb_memory_watch_stop(struct fb_memory_watch *watch);

/* How many of the n_threads should compute at this time; 0: all. On any thread. */
int fb_memory_watch_threads(const struct fb_memory_watch *watch);

/* Processors that other programs used since the watch was started, on average. On any thread. */
double fb_memory_watch_others(const struct fb_memory_watch *watch);

/* Around a graph: in between, the stream belongs to the computing thread. Blocks while the watch's
 * thread adapts the stream. */
void fb_memory_watch_graph_begin(struct fb_memory_watch *watch);
void fb_memory_watch_graph_end(struct fb_memory_watch *watch);

/* In a graph, around a computation that uses nothing of the stream but open leases, resident
 * weights and the streamed weight that is held: in between, memory may change. `end` blocks like
 * graph_begin. */
void fb_memory_watch_compute_begin(struct fb_memory_watch *watch);
void fb_memory_watch_compute_end(struct fb_memory_watch *watch);

#endif
