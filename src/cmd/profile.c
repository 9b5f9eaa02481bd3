/* profile.c - forebay profile: measures this machine; text or JSON. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/progress.h"

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* Rates of whole matrices; not those of experts of a size, which are measured for a model. */
static bool is_whole(const json_t *rate)
{
    const char *device = json_string_value(json_object_get(rate, "device"));
    return number(rate, "columns") == 0 && (!device || !device[0]);
}

/* The largest number of threads that matrices were measured with. */
static double most_threads(const json_t *rates)
{
    double most = 0;
    const json_t *r;
    size_t i;
    json_array_foreach(rates, i, r)
    {
        most = is_whole(r) && number(r, "threads") > most ? number(r, "threads") : most;
    }
    return most;
}

static const json_t *find_rate(const json_t *rates, const char *type, bool repacked, double threads)
{
    const json_t *r;
    size_t i;
    json_array_foreach(rates, i, r)
    {
        if (is_whole(r) && number(r, "threads") == threads &&
            json_is_true(json_object_get(r, "repacked")) == repacked &&
            strcmp(json_string_value(json_object_get(r, "type")), type) == 0) {
            return r;
        }
    }
    return NULL;
}

static void print_cell(const json_t *rate, const char *key, int width)
{
    double value = number(rate, key) / 1e9; /* 0 if there is no rate */
    if (value > 0) {
        printf(value < 0.1 ? "%*.2g" : "%*.1f", width, value);
    } else {
        printf("%*s", width, "-");
    }
}

/* One row for each type, at the largest number of threads. */
static void print_compute(const json_t *root)
{
    const json_t *rates = json_object_get(root, "compute"), *r;
    double threads = most_threads(rates);
    size_t i, others = 0;
    printf("\ncomputing with %.0f thread%s:\n", threads, threads == 1 ? "" : "s");
    printf("%-10s %19s   %21s   %9s\n", "", "one token, GB/s", "many tokens, Gmadd/s", "repacking");
    printf("%-10s %9s %9s   %11s %9s   %9s\n", "weights", "as stored", "repacked", "as stored",
        "repacked", "GB/s");
    json_array_foreach(rates, i, r)
    {
        const char *type = json_string_value(json_object_get(r, "type"));
        bool listed = is_whole(r) && number(r, "threads") == threads;
        others += !listed;
        if (!listed || json_is_true(json_object_get(r, "repacked"))) {
            continue;
        }
        const json_t *repacked = find_rate(rates, type, true, threads);
        if (number(repacked, "unpack_bytes_per_s") == 0) {
            repacked = NULL; /* this CPU has no repacked layout for the type */
        }
        printf("%-10s ", type);
        print_cell(r, "decode_bytes_per_s", 9);
        print_cell(repacked, "decode_bytes_per_s", 10);
        print_cell(r, "batch_madds_per_s", 14);
        print_cell(repacked, "batch_madds_per_s", 10);
        print_cell(repacked, "unpack_bytes_per_s", 12);
        printf("\n");
    }
    printf("(GB/s: bytes of weights. Gmadd/s: 10^9 multiply-adds a second.");
    if (others > 0) {
        printf(" --json has %zu more: other numbers of threads, experts of single models.", others);
    }
    printf(")\n");
}

static void print_disks(const json_t *root)
{
    static const char *const blocks[] = {"64 KiB", "256 KiB", "1 MiB", "4 MiB"};
    const json_t *d;
    size_t i;
    json_array_foreach(json_object_get(root, "disks"), i, d)
    {
        printf("\ndisk %lld: %.2f GB/s with 16 random reads of 1 MiB at once; one read of 4 KiB: "
               "%.0f us\n",
            (long long)number(d, "device"), number(d, "bytes_per_s") / 1e9,
            number(d, "latency_s") * 1e6);
        printf("%-10s %10s %10s %10s   GB/s\n", "block", "1 at once", "4", "16");
        for (size_t b = 0; b < 4; b++) {
            const json_t *row = json_array_get(json_object_get(d, "grid_bytes_per_s"), b);
            printf("%-10s", blocks[b]);
            for (size_t q = 0; q < 3; q++) {
                printf(" %10.2f", json_number_value(json_array_get(row, q)) / 1e9);
            }
            printf("\n");
        }
    }
}

static void print_text(const char *json)
{
    json_t *root = json_loads(json, 0, NULL);
    printf("%s\n", json_string_value(json_object_get(root, "machine")));
    printf("memory: one core reads %.1f GB/s, all cores %.1f GB/s; an operation takes %.1f us\n",
        number(root, "memory_bytes_per_s_1") / 1e9, number(root, "memory_bytes_per_s") / 1e9,
        number(root, "op_s") * 1e6);
    if (number(root, "other_cores") > CMD_BUSY_CORES) {
        printf("other programs used %.1f processors meanwhile: what follows is too slow, and will "
               "be measured again\nwhen they do not\n",
            number(root, "other_cores"));
    }
    print_compute(root);
    print_disks(root);
    json_decref(root);
}

int cmd_profile(int argc, char **argv)
{
    bool again = false, json = false, quiet = false;
    struct cmd_option options[] = {
        {CMD_FLAG, 0, "again", NULL, "measure everything again", .target = &again},
        {CMD_FLAG, 0, "json", NULL, "print the profile as JSON", .target = &json},
        {CMD_FLAG, 'q', "quiet", NULL, "print no progress", .target = &quiet}, {0}};
    const struct cmd_spec spec = {"profile", "[MODEL] [options]",
        "Measures this machine: memory, compute speed by type of weights and, with a model, the "
        "disk that holds it (reads only). Results are kept for a month in the cache directory "
        "($FOREBAY_CACHE_DIR, or else the user's); `forebay plan` and `forebay run` use them.",
        options, 0, 1, NULL};
    const char *model = NULL;
    int n = 0, rc = cmd_parse(&spec, argc, argv, &model, &n);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    struct progress_line line;
    struct forebay_error err = {0};
    char *text = NULL;
    progress_init(&line, quiet);
    enum forebay_status status =
        forebay_profile(n > 0 ? model : NULL, again, progress_report, &line, &text, &err);
    progress_end(&line);
    if (status != FOREBAY_OK) {
        return cmd_fail(&err);
    }
    if (json) {
        puts(text);
    } else {
        print_text(text);
    }
    free(text);
    return CMD_OK;
}
