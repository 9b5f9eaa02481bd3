/*
 * graph_slice.h - some nodes of a graph in a row, as a graph.
 *
 * A back end fuses nodes, and decides so by how often the graph uses each of them. Only ggml can
 * make a part of a graph that still knows it (ggml_graph_view, exported but declared in a private
 * header), and a graph is a struct that only ggml knows: here it is memory that is large enough.
 */
#ifndef FB_GPU_GRAPH_SLICE_H
#define FB_GPU_GRAPH_SLICE_H

#include "base/error.h"
#include "ggml.h"

#define FB_GRAPH_BYTES 1024

struct ggml_cgraph {
    _Alignas(16) char opaque[FB_GRAPH_BYTES];
};

GGML_API struct ggml_cgraph ggml_graph_view(struct ggml_cgraph *graph, int from, int to);

/* Whether the memory above is large enough for this ggml's graphs: call once. (The overhead of a
 * graph is its struct and some more.) */
static inline bool fb_graph_slice_fits(void)
{
    return ggml_graph_overhead_custom(1, false) <= FB_GRAPH_BYTES;
}

/* Nodes [from, to) of the graph. Valid as long as it. */
static inline struct ggml_cgraph fb_graph_slice(struct ggml_cgraph *graph, int from, int to)
{
    FB_ASSERT(from >= 0 && from < to && to <= ggml_graph_n_nodes(graph));
    return ggml_graph_view(graph, from, to);
}

#endif
