/*
 * shared_options.h - rows of option tables that several commands have, to stand in a table:
 *
 *      struct cmd_option options[] = {{CMD_GROUP, .help = "Generation"},
 *          CMD_SAMPLING_OPTIONS(&sampling, "temperature (default 0.8)"),
 *          CMD_MODEL_OPTIONS(&model), {0}};
 */
#ifndef FB_CMD_SHARED_OPTIONS_H
#define FB_CMD_SHARED_OPTIONS_H

#include <limits.h>

#include "cmd/options.h"

/* clang-format off */

/* In a group that the table has begun. s: struct forebay_sampling * */
#define CMD_SAMPLING_OPTIONS(s, temp_help) \
    {CMD_FLOAT, 0, "temp", "T", temp_help, .target = &(s)->temp, .min = 0, .max = 100}, \
    {CMD_INT, 0, "top-k", "K", "sample among the K likeliest (default 40); 0: all", \
        .target = &(s)->top_k, .min = 0, .max = INT_MAX}, \
    {CMD_FLOAT, 0, "top-p", "P", "... among those that make up P of the probability " \
        "(default 0.95)", \
        .target = &(s)->top_p, .min = 0, .max = 1}, \
    {CMD_FLOAT, 0, "min-p", "P", "... among those at least P times as likely as the " \
        "likeliest (default 0.05)", \
        .target = &(s)->min_p, .min = 0, .max = 1}, \
    {CMD_FLOAT, 0, "repeat-penalty", "R", "make repetition less likely (default 1: off)", \
        .target = &(s)->repeat_penalty, .min = 0.01, .max = 100}, \
    {CMD_UINT32, 0, "seed", "SEED", "of the random numbers (default 0; chat: another " \
        "each time)", .target = &(s)->seed}

/* A group of its own. m: struct forebay_model_options * */
#define CMD_MODEL_OPTIONS(m) \
    {CMD_GROUP, .help = "Memory and speed"}, \
    {CMD_SIZE, 0, "mem", "SIZE", "what the whole process may hold (4G, 800M); default: what is " \
        "free, with room to spare", .target = &(m)->mem_bytes, .min = 1, .max = 0x1p62}, \
    {CMD_SIZE, 0, "weights-mem", "SIZE", "bound only the memory for weights (experiments)", \
        .target = &(m)->weights_mem_bytes, .min = 1, .max = 0x1p62}, \
    {CMD_UINT32, 'c', "ctx", "N", "tokens of context; default: as trained, at most 4096", \
        .target = &(m)->ctx, .min = 1, .max = 1 << 24}, \
    {CMD_UINT32, 'b', "batch", "N", "prompt tokens per pass (default 512 to 2048)", \
        .target = &(m)->batch, .min = 1, .max = 1 << 20}, \
    {CMD_INT, 't', "threads", "N", "default: the physical cores", \
        .target = &(m)->threads, .min = 1, .max = 512}, \
    {CMD_NO_FLAG, 0, "no-repack", NULL, "compute on weights as stored, not in the CPU's layout", \
        .target = &(m)->repack}, \
    {CMD_STRING, 0, "io", "METHOD", "how to read: auto, uring, threads, sync", \
        .target = &(m)->io_method}, \
    {CMD_UINT32, 0, "lookahead", "N", "layers ahead for which experts are foreseen and read " \
        "(default 1; 0: off)", .target = &(m)->lookahead, .max = 4}, \
    {CMD_FLOAT, 0, "lookahead-recall", "R", "share of what is foreseen that is left right " \
        "(experiments)", .target = &(m)->lookahead_recall, .min = 0, .max = 1}, \
    {CMD_STRING, 0, "sidecar", "FILE", "read weights from what forebay optimize wrote: auto (the " \
        "default), none, or a file", .target = &(m)->sidecar}, \
    {CMD_STRING, 0, "device", "NAME", "what takes layers: auto (the first GPU), none, or a " \
        "device as ggml names it (Vulkan0)", .target = &(m)->device}, \
    {CMD_SIZE, 0, "device-mem", "SIZE", "how much of the device's memory; default: what is " \
        "free, with room to spare", .target = &(m)->device_mem_bytes, .min = 1, .max = 0x1p62}

/* clang-format on */

#endif
