/*
 * shared_options.h - rows that several commands have in their option tables:
 *
 *      struct cmd_option options[] = {{CMD_GROUP, .help = "Generation"},
 *          CMD_SAMPLING_OPTIONS(&sampling, "temperature (default 0.8)", "random (default 0)"),
 *          CMD_MODEL_OPTIONS(&model), {0}};
 */
#ifndef FB_CMD_SHARED_OPTIONS_H
#define FB_CMD_SHARED_OPTIONS_H

#include <limits.h>

#include "cmd/options.h"

/* A .parse for --device-mem: sizes separated by commas. Target: struct forebay_model_options *. */
const char *cmd_device_mem(const char *text, void *target);

/* clang-format off */

/* Rows for a group that the table has begun. s: struct forebay_sampling * */
#define CMD_SAMPLING_OPTIONS(s, temp_help, seed_help) \
    {CMD_FLOAT, 0, "temp", "T", temp_help, .target = &(s)->temp, .min = 0, .max = 100}, \
    {CMD_INT, 0, "top-k", "K", "sample from the K likeliest tokens (default 40); 0: from all", \
        .target = &(s)->top_k, .min = 0, .max = INT_MAX}, \
    {CMD_FLOAT, 0, "top-p", "P", "of these, keep the likeliest that together have probability P " \
        "(default 0.95)", \
        .target = &(s)->top_p, .min = 0, .max = 1}, \
    {CMD_FLOAT, 0, "min-p", "P", "of these, keep those at least P times as likely as the " \
        "likeliest (default 0.05)", \
        .target = &(s)->min_p, .min = 0, .max = 1}, \
    {CMD_FLOAT, 0, "repeat-penalty", "R", "penalty for repeated tokens (default 1: none)", \
        .target = &(s)->repeat_penalty, .min = 0.01, .max = 100}, \
    {CMD_UINT32, 0, "seed", "SEED", seed_help, .target = &(s)->seed}

/* A group. m: struct forebay_model_options * */
#define CMD_MODEL_OPTIONS(m) \
    {CMD_GROUP, .help = "Memory and speed"}, \
    {CMD_SIZE, 0, "mem", "SIZE", "memory limit of the whole process (4G, 800M); default: the " \
        "free memory less a reserve", .target = &(m)->mem_bytes, .min = 1, .max = 0x1p62}, \
    {CMD_SIZE, 0, "weights-mem", "SIZE", "memory limit of the weights alone (for experiments)", \
        .target = &(m)->weights_mem_bytes, .min = 1, .max = 0x1p62}, \
    {CMD_UINT32, 'c', "ctx", "N", "tokens of context; default: as trained, if an eighth " \
        "of the memory is enough", \
        .target = &(m)->ctx, .min = 1, .max = 1 << 24}, \
    {CMD_UINT32, 'b', "batch", "N", "prompt tokens per pass (default: 512; 32 to 2048 " \
        "when weights are streamed)", \
        .target = &(m)->batch, .min = 1, .max = 1 << 20}, \
    {CMD_INT, 't', "threads", "N", "number of threads; default: one per physical core", \
        .target = &(m)->threads, .min = 1, .max = 512}, \
    {CMD_NO_FLAG, 0, "no-repack", NULL, "compute with weights as stored, not in the CPU's " \
        "layout", \
        .target = &(m)->repack}, \
    {CMD_STRING, 0, "io", "METHOD", "method of reading: auto, uring, threads, sync", \
        .target = &(m)->io_method}, \
    {CMD_UINT32, 0, "lookahead", "N", "guess and prefetch the experts of the next N layers " \
        "(default 1; 0: off)", .target = &(m)->lookahead, .max = 4}, \
    {CMD_FLOAT, 0, "lookahead-recall", "R", "fraction of lookahead guesses left correct (for " \
        "experiments; default 1)", .target = &(m)->lookahead_recall, .min = 0, .max = 1}, \
    {CMD_STRING, 0, "sidecar", "FILE", "read weights from a sidecar made by forebay optimize: " \
        "auto (the default), none, or a file", .target = &(m)->sidecar}, \
    CMD_DEVICE_OPTIONS(m)

/* Rows for a group that the table has begun. m: struct forebay_model_options * */
#define CMD_DEVICE_OPTIONS(m) \
    {CMD_STRING, 0, "device", "NAME[,NAME]", "devices that layers are offloaded to, filled one " \
        "after another: auto (all GPUs with memory of their own, or else the first), none, or " \
        "ggml names (Vulkan0,Vulkan1)", .target = &(m)->device}, \
    {CMD_STRING, 0, "device-experts", "HOW", "where not all fit on the device: layers (it has " \
        "those of whole layers), slots (it computes all, and holds those used most), slots:N " \
        "(the same, but the last N layers are whole) or auto (the default: what should be " \
        "fastest by measurements)", .target = &(m)->device_experts}, \
    {CMD_CALL, 0, "device-mem", "SIZE[,SIZE]", "memory limit on each device, or one for all of " \
        "them; default: the free memory less a reserve", .target = (m), .parse = cmd_device_mem}

/* clang-format on */

#endif
