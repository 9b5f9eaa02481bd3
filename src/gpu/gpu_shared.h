/*
 * gpu_shared.h - the stream's own slots as buffers of a device whose memory is the machine's.
 *
 *      pool of the stream   part 0  [slot 0][slot 1] ... [slot n - 1]     one buffer of the device,
 *                           part 1  [slot 0][slot 1] ...                  and another one
 *
 * Nothing is copied: a lease of the stream names slots, and the device computes with them. What the
 * CPU writes into a slot, the device sees in all that it is given to compute afterwards.
 *
 * A driver may pin the pages of a buffer, and pages that are given back while they are pinned are
 * not free, and no longer those of the slots. So we are the holder of the pools (stream/pool.h):
 *
 *      stack ----> wrapped ----> stack ...      only while a lease or set of the group is open,
 *        ^           |                          so that the pool keeps its size
 *        |           | let_go, before the pool changes its size: no lease or set is open, and the
 *        +-----------+ device has been waited for
 *
 * Threads: let_go comes on the thread that adapts the stream, which may be the watch's. All else is
 * called between fb_memory_watch_graph_begin and _end, which exclude it.
 */
#ifndef FB_GPU_GPU_SHARED_H
#define FB_GPU_GPU_SHARED_H

#include "ggml-backend.h"
#include "ggml.h"

struct fb_binding;
struct fb_gpu_shared;

/* Tries whether the device computes on memory of ours, and sees what the CPU changes there. Takes
 * some milliseconds. */
bool fb_gpu_shared_works(ggml_backend_dev_t device);

/* For the groups that the binding has given to the GPU; it has been started, with
 * fb_binding_share_slots, and must outlive the result. Wraps all slots; those that the device
 * refuses stay as they are. */
struct fb_gpu_shared *fb_gpu_shared_new(struct fb_binding *binding, ggml_backend_dev_t device);
void fb_gpu_shared_free(struct fb_gpu_shared *shared); /* NULL is fine */

/* The weight's slots as a tensor [columns, rows, slots], until the pool changes its size. NULL:
 * they are not a stack without gaps (a pool whose groups have units of different sizes), or the
 * device refused to wrap them. */
struct ggml_tensor *fb_gpu_shared_stack(struct fb_gpu_shared *shared, int weight);

/* Whether all parts of the group have a stack. */
bool fb_gpu_shared_group(struct fb_gpu_shared *shared, int group);

/* Slots of all groups that were given to the GPU, now. */
int fb_gpu_shared_total(const struct fb_gpu_shared *shared);

#endif
