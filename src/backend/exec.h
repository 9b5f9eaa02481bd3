/*
 * exec.h - computing for one llama.cpp context: its workers, its queue, and the binding whose graph
 * is being computed. It is passed to everything that takes part in computing a graph.
 */
#ifndef FB_BACKEND_EXEC_H
#define FB_BACKEND_EXEC_H

#include "backend/binding.h"
#include "backend/queue.h"

struct fb_exec {
    struct fb_workers workers;
    struct fb_queue queue;
    struct fb_binding *binding; /* during a graph; has a stream */
    bool holds_streamed;        /* a streamed weight was acquired, for the queue's last node */
};

/* False when there is no CPU backend; then nothing is held. */
bool fb_exec_init(struct fb_exec *ex);
void fb_exec_release(struct fb_exec *ex);

/* Computes the queue, clears it, and releases the streamed weight that it used. */
enum ggml_status fb_exec_flush(struct fb_exec *ex);

/* Gives up on the graph: drops the queue and releases the streamed weight. */
void fb_exec_drop(struct fb_exec *ex);

/* A shadow of an expert weight as the stack of its pool's slots. */
struct ggml_tensor *fb_exec_shadow_slots(
    struct fb_exec *ex, const struct ggml_tensor *weight, const struct fb_tensor_claim *claim);

#endif
