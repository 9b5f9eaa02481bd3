/*
 * inspect.c - forebay inspect: the contents of a model file, as tables or JSON. Reads no weights.
 *
 *      forebay_file --make_report--> sums by role, sums by type --> tables or JSON
 *
 * Strings from the file are printed without control characters.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/utf8.h"

/* Totals over all tensors of one role or one quantisation type. */
struct sum {
    const char *label;
    int n_tensors;
    uint64_t parameters;
    uint64_t bytes;
};

#define MAX_SUMS 64 /* more than there are roles, or types */

struct sums {
    const char *heading; /* heading of the first column; JSON key of the label */
    int n;
    struct sum sum[MAX_SUMS];
};

struct report {
    const struct forebay_file *file;
    struct forebay_file_info info;
    struct sums roles;
    struct sums types;
};

/* --- Sums --------------------------------------------------------------------------------- */

static void add_to(struct sums *sums, const char *label, uint64_t parameters, uint64_t bytes)
{
    int i = 0;
    while (i < sums->n && strcmp(sums->sum[i].label, label) != 0) {
        i++;
    }
    FB_ASSERT(i < MAX_SUMS);
    struct sum *s = &sums->sum[i];
    if (i == sums->n) {
        sums->n++;
        s->label = label;
    }
    s->n_tensors++;
    s->parameters += parameters;
    s->bytes += bytes;
}

static int larger_first(const void *a, const void *b)
{
    const struct sum *x = a, *y = b;
    return x->bytes != y->bytes ? (x->bytes < y->bytes ? 1 : -1) : strcmp(x->label, y->label);
}

static void make_report(const struct forebay_file *file, struct report *r)
{
    memset(r, 0, sizeof *r);
    r->file = file;
    r->roles.heading = "role";
    r->types.heading = "type";
    forebay_file_describe(file, &r->info);
    for (int i = 0; i < r->info.n_tensors; i++) {
        struct forebay_tensor_info t;
        forebay_file_tensor(file, i, &t);
        uint64_t parameters = (uint64_t)(t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3]);
        add_to(&r->roles, t.role, parameters, t.bytes);
        add_to(&r->types, t.type, parameters, t.bytes);
    }
    qsort(r->roles.sum, (size_t)r->roles.n, sizeof r->roles.sum[0], larger_first);
    qsort(r->types.sum, (size_t)r->types.n, sizeof r->types.sum[0], larger_first);
}

/* --- Text --------------------------------------------------------------------------------- */

/* Prints text from the file with '?' for control characters, which could drive a terminal. Returns
 * the number of bytes printed. */
static int print_text(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    int n = 0;
    for (; *u; u++, n++) {
        bool c1 = u[0] == 0xc2 && u[1] >= 0x80 && u[1] < 0xa0;
        putchar(*u < 0x20 || *u == 0x7f || c1 ? '?' : *u);
    }
    return n;
}

/* "1.5 M", "671 B": decimal, as model sizes are quoted. */
static const char *format_count(uint64_t n, char buf[24])
{
    static const char *const unit[] = {"", " K", " M", " B", " T"};
    double value = (double)n;
    int i = 0;
    while (value >= 1000 && i < 4) {
        value /= 1000;
        i++;
    }
    snprintf(buf, 24, i == 0 ? "%.0f%s" : value < 10 ? "%.2f%s" : "%.3g%s", value, unit[i]);
    return buf;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void print_summary(const struct forebay_file_info *info)
{
    char count[24];
    printf("file          ");
    print_text(info->path);
    if (info->n_files > 1) {
        printf(" and %d more", info->n_files - 1);
    }
    printf("\nname          ");
    print_text(info->name[0] ? info->name : "-");
    printf("\narchitecture  ");
    print_text(info->arch[0] ? info->arch : "-");
    printf("\nparameters    %s\n", format_count(info->parameters, count));
    printf("weights       %s in %d tensors\n", FB_SIZE(info->tensor_bytes), info->n_tensors);
    printf("layers        %d\n", info->n_layer);
    if (info->n_expert > 0) {
        printf("experts       %d per layer, %d used by a token\n", info->n_expert,
            info->n_expert_used);
    } else {
        printf("experts       none (a dense model)\n");
    }
    printf("a token reads %s (%.3g %% of the weights)\n", FB_SIZE(info->bytes_per_token),
        percent(info->bytes_per_token, info->tensor_bytes));
}

static void print_sums(const struct sums *sums, uint64_t total)
{
    char count[24];
    printf("\n%-22s %8s %11s %11s %7s\n", sums->heading, "tensors", "parameters", "size", "share");
    for (int i = 0; i < sums->n; i++) {
        const struct sum *s = &sums->sum[i];
        printf("%-22s %8d %11s %11s %5.1f %%\n", s->label, s->n_tensors,
            format_count(s->parameters, count), FB_SIZE(s->bytes), percent(s->bytes, total));
    }
}

static const char *shape_text(const struct forebay_tensor_info *t, char buf[96])
{
    int n = 0;
    for (int d = 0; d < t->n_dims; d++) {
        n += snprintf(buf + n, 96 - (size_t)n, "%s%" PRId64, d ? " x " : "", t->ne[d]);
    }
    return buf;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void print_tensors(const struct report *r)
{
    struct forebay_tensor_info t;
    int name_width = 6, shape_width = 5;
    char shape[96];
    for (int i = 0; i < r->info.n_tensors; i++) {
        forebay_file_tensor(r->file, i, &t);
        int name = (int)strlen(t.name), length = (int)strlen(shape_text(&t, shape));
        name_width = name > name_width ? name : name_width;
        shape_width = length > shape_width ? length : shape_width;
    }
    printf("\n%-*s  %-7s  %-*s  %-20s %5s  %14s  %s\n", name_width, "tensor", "type", shape_width,
        "shape", "role", "layer", "bytes", "file:offset");
    for (int i = 0; i < r->info.n_tensors; i++) {
        forebay_file_tensor(r->file, i, &t);
        int printed = print_text(t.name);
        char layer[16] = "-";
        if (t.layer >= 0) {
            snprintf(layer, sizeof layer, "%d", t.layer);
        }
        printf("%*s  %-7s  %-*s  %-20s %5s  %14" PRIu64 "  ", name_width - printed, "", t.type,
            shape_width, shape_text(&t, shape), t.role, layer, t.bytes);
        print_text(file_name(t.file));
        printf(":%" PRIu64 "\n", t.offset);
    }
}

static int report_text(const struct report *r, bool tensors)
{
    print_summary(&r->info);
    print_sums(&r->roles, r->info.tensor_bytes);
    print_sums(&r->types, r->info.tensor_bytes);
    if (tensors) {
        print_tensors(r);
    }
    return CMD_OK;
}

/* --- JSON --------------------------------------------------------------------------------- */

static void set_integer(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static json_t *sums_json(const struct sums *sums)
{
    json_t *list = json_array();
    for (int i = 0; i < sums->n; i++) {
        const struct sum *s = &sums->sum[i];
        json_t *item = json_object();
        json_object_set_new(item, sums->heading, utf8_json(s->label));
        set_integer(item, "tensors", (uint64_t)s->n_tensors);
        set_integer(item, "parameters", s->parameters);
        set_integer(item, "bytes", s->bytes);
        json_array_append_new(list, item);
    }
    return list;
}

static json_t *tensor_json(const struct forebay_tensor_info *t)
{
    json_t *item = json_object();
    json_t *shape = json_array();
    for (int d = 0; d < t->n_dims; d++) {
        json_array_append_new(shape, json_integer(t->ne[d]));
    }
    json_object_set_new(item, "name", utf8_json(t->name));
    json_object_set_new(item, "type", utf8_json(t->type));
    json_object_set_new(item, "shape", shape);
    json_object_set_new(item, "role", utf8_json(t->role));
    json_object_set_new(item, "layer", t->layer < 0 ? json_null() : json_integer(t->layer));
    set_integer(item, "bytes", t->bytes);
    set_integer(item, "experts", (uint64_t)t->n_expert);
    set_integer(item, "expert_bytes", t->expert_bytes);
    json_object_set_new(item, "file", utf8_json(t->file));
    set_integer(item, "offset", t->offset);
    return item;
}

static json_t *tensors_json(const struct report *r)
{
    json_t *list = json_array();
    for (int i = 0; i < r->info.n_tensors; i++) {
        struct forebay_tensor_info t;
        forebay_file_tensor(r->file, i, &t);
        json_array_append_new(list, tensor_json(&t));
    }
    return list;
}

static int report_json(const struct report *r, bool tensors)
{
    const struct forebay_file_info *info = &r->info;
    json_t *root = json_object();
    json_object_set_new(root, "path", utf8_json(info->path));
    json_object_set_new(root, "name", utf8_json(info->name));
    json_object_set_new(root, "architecture", utf8_json(info->arch));
    set_integer(root, "files", (uint64_t)info->n_files);
    set_integer(root, "tensor_count", (uint64_t)info->n_tensors);
    set_integer(root, "layers", (uint64_t)info->n_layer);
    set_integer(root, "experts", (uint64_t)info->n_expert);
    set_integer(root, "experts_used", (uint64_t)info->n_expert_used);
    set_integer(root, "parameters", info->parameters);
    set_integer(root, "file_bytes", info->file_bytes);
    set_integer(root, "tensor_bytes", info->tensor_bytes);
    set_integer(root, "bytes_per_token", info->bytes_per_token);
    json_object_set_new(root, "roles", sums_json(&r->roles));
    json_object_set_new(root, "types", sums_json(&r->types));
    if (tensors) {
        json_object_set_new(root, "tensors", tensors_json(r));
    }
    bool ok = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER) == 0;
    putchar('\n');
    json_decref(root);
    return ok ? CMD_OK : CMD_FAILED;
}

int cmd_inspect(int argc, char **argv)
{
    bool tensors = false, json = false;
    const char *path;
    const struct cmd_option options[] = {
        {CMD_FLAG, 0, "tensors", NULL, "list all tensors, too", .target = &tensors},
        {CMD_FLAG, 0, "json", NULL, "print JSON; sizes are in bytes", .target = &json},
        {0},
    };
    const struct cmd_spec spec = {
        .name = "inspect",
        .synopsis = "MODEL [--tensors] [--json]",
        .summary =
            "Shows the contents of a GGUF model: sizes by role and by quantisation, and the bytes "
            "of weights that one token reads. Reads only the header of the file. For a split "
            "model, give the first file.",
        .options = options,
        .min_positional = 1,
        .max_positional = 1,
    };
    int rc = cmd_parse(&spec, argc, argv, &path, NULL);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    struct forebay_file *file;
    struct forebay_error err;
    if (forebay_file_open(path, &file, &err) != FOREBAY_OK) {
        return cmd_fail(&err);
    }
    struct report report;
    make_report(file, &report);
    rc = json ? report_json(&report, tensors) : report_text(&report, tensors);
    forebay_file_free(file);
    return rc;
}
