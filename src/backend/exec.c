#include "backend/exec.h"

#include "backend/memory_watch.h"
#include "base/units.h"

bool fb_exec_init(struct fb_exec *ex)
{
    *ex = (struct fb_exec){0};
    return fb_workers_init(&ex->workers);
}

void fb_exec_release(struct fb_exec *ex)
{
    fb_workers_release(&ex->workers);
    fb_queue_release(&ex->queue);
}

void fb_exec_drop(struct fb_exec *ex)
{
    fb_queue_clear(&ex->queue);
    if (ex->holds_streamed) {
        fb_stream_dense_release(ex->binding->stream);
        ex->holds_streamed = false;
    }
}

enum ggml_status fb_exec_flush(struct fb_exec *ex)
{
    struct fb_binding *b = ex->binding;
    fb_memory_watch_compute_begin(b->memory_watch);
    uint64_t before = fb_now_ns();
    enum ggml_status status = fb_workers_compute(&ex->workers, ex->queue.nodes, ex->queue.n_nodes);
    b->compute_ns += fb_now_ns() - before;
    fb_memory_watch_compute_end(b->memory_watch);
    fb_exec_drop(ex);
    return status;
}

struct ggml_tensor *fb_exec_shadow_slots(
    struct fb_exec *ex, const struct ggml_tensor *weight, const struct fb_tensor_claim *claim)
{
    uint64_t stride;
    int n_slots;
    void *base = fb_stream_slots(ex->binding->stream, claim->weight, &stride, &n_slots);
    struct ggml_tensor *shadow = fb_queue_shadow_weight(&ex->queue, weight, &claim->form, base);
    shadow->ne[2] = n_slots;
    shadow->nb[2] = stride;
    shadow->nb[3] = stride * (size_t)n_slots;
    return shadow;
}
