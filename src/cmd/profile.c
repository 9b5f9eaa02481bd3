/* profile.c - forebay profile: measures this machine; text or JSON. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/progress.h"

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void print_compute(const json_t *root)
{
    const json_t *r;
    size_t i;
    printf("\n%-10s %-9s %8s %14s %16s %12s\n", "weights", "layout", "threads", "one token",
        "many tokens", "repacking");
    json_array_foreach(json_object_get(root, "compute"), i, r)
    {
        bool repacked = json_is_true(json_object_get(r, "repacked"));
        double unpack = number(r, "unpack_bytes_per_s");
        if (repacked && unpack == 0) {
            continue; /* no repacked layout for this type on this CPU */
        }
        printf("%-10s %-9s %8d %9.1f GB/s %8.1f Gmadd/s",
            json_string_value(json_object_get(r, "type")), repacked ? "repacked" : "as stored",
            (int)number(r, "threads"), number(r, "decode_bytes_per_s") / 1e9,
            number(r, "batch_madds_per_s") / 1e9);
        if (unpack > 0) {
            printf(" %7.1f GB/s", unpack / 1e9);
        }
        printf("\n");
    }
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
