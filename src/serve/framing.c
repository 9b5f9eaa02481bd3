/*
 * framing.c - see framing.h.
 *
 * A proxy in front of us that reads a header differently takes the end of one request for the
 * beginning of the next (request smuggling, RFC 9112 section 11.2). libmicrohttpd before 1.0
 * accepts some of these, and handles headers as C strings: a NUL hides the rest of its line. But
 * the lines are still in its buffer:
 *
 *      name NUL blanks value NUL NUL name NUL blanks value NUL NUL NUL NUL
 *            ':'              CR  LF                                end of the headers
 *
 * so between a value's end and the next name there is nothing but two terminators.
 */
#include "serve/framing.h"

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

/* libmicrohttpd from 1.0 refuses these by itself, and stores headers differently. */
#define HAS_C_STRINGS (MHD_VERSION < 0x01000000)

struct scan {
    const char *fault;
    const char *end;    /* of the last value, or of the first line */
    const char *length; /* the first Content-Length */
    const char *host;
    const char *encoding;
};

/* RFC 9110 section 5.6.2 */
static bool is_token(const char *name)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    const char *c = name;
    while ((*c >= '0' && *c <= '9') || ((*c | 32) >= 'a' && (*c | 32) <= 'z') ||
           (*c && strchr(others, *c))) {
        c++;
    }
    return c != name && !*c;
}

static bool has_control(const char *value)
{
    const char *c = value;
    while ((unsigned char)*c >= ' ' || *c == '\t') {
        c++;
    }
    return *c != 0;
}

/* `next`: where the line after the value begins. */
static bool hides(const char *end, const char *next)
{
    uintptr_t from = (uintptr_t)end, to = (uintptr_t)next;
    return to <= from || to - from > 2;
}

static enum MHD_Result look(
    void *user, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct scan *s = user;
    (void)kind;
    value = value ? value : "";
    if (!is_token(name)) {
        s->fault = "a header's name has a character that is not allowed";
    } else if (has_control(value)) {
        s->fault = "a header has a control character";
    } else if (HAS_C_STRINGS && s->end && hides(s->end, name)) {
        s->fault = "a header has a NUL, or is continued on the next line";
    } else if (strcasecmp(name, "Content-Length") == 0) {
        s->fault = s->length && strcmp(s->length, value) != 0
                       ? "the request has two different values of Content-Length"
                       : s->fault;
        s->length = value;
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        s->fault = s->encoding || strcasecmp(value, "chunked") != 0
                       ? "Transfer-Encoding must be chunked, and occur once"
                       : s->fault;
        s->encoding = value;
    } else if (strcasecmp(name, "Host") == 0) {
        s->fault = s->host ? "the request has two Host headers" : s->fault;
        s->host = value;
    }
    s->end = value + strlen(value);
    return s->fault ? MHD_NO : MHD_YES;
}

/* The headers' last line is empty: two more terminators. */
static bool hides_after(struct MHD_Connection *connection, const char *method, const char *end)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    uintptr_t from = (uintptr_t)end, to = (uintptr_t)method + (info ? info->header_size : 0);
    return info && to > from && to - from > 4;
}

const char *fb_framing_fault(
    struct MHD_Connection *connection, const char *method, const char *version, const char *uri_end)
{
    struct scan s = {.end = version[0] ? version + strlen(version) : NULL};
    MHD_get_connection_values(connection, MHD_HEADER_KIND, look, &s);
    if (s.fault) {
        return s.fault;
    }
    if (HAS_C_STRINGS && ((uri_end && version[0] && version != uri_end) ||
                             (s.end && hides_after(connection, method, s.end)))) {
        return "the request has a NUL in its headers";
    }
    if (s.encoding && s.length) {
        return "the request has both Transfer-Encoding and Content-Length";
    }
    if (s.encoding && strcmp(version, "HTTP/1.0") == 0) {
        return "HTTP/1.0 has no Transfer-Encoding";
    }
    return NULL;
}
