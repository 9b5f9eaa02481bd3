#include "serve/http.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/units.h"

#define STREAM_BLOCK_BYTES (16 << 10)

bool fb_request_left(const struct fb_request *r)
{
    char byte;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info && recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void fb_request_settle(struct fb_request *r, uint64_t bytes)
{
    fb_buffer_release(&r->body);
    fb_share_set(r->memory, &r->share, fb_min(bytes, r->share.bytes));
}

bool fb_request_reserve(struct fb_request *r, uint64_t bytes)
{
    return bytes <= r->share.bytes || fb_share_set(r->memory, &r->share, bytes);
}

/* --- Answers ------------------------------------------------------------------------------- */

static void queue(struct fb_request *r, int status, struct MHD_Response *response)
{
    if (status == 429 || status == 503) {
        MHD_add_response_header(response, "Retry-After", "2");
    }
    if (status == 401) {
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    }
    if (status == 405 && r->allow) {
        MHD_add_response_header(response, "Allow", r->allow);
    }
    if (r->origin) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", r->origin);
        MHD_add_response_header(response, "Access-Control-Expose-Headers", "*");
    }
    MHD_add_response_header(response, "Vary", "Origin");
    if (r->close) {
        MHD_add_response_header(response, "Connection", "close");
    }
    fb_connection_send(r->connections, r->peer);
    r->result = MHD_queue_response(r->connection, (unsigned)status, response);
    r->answered = true;
    MHD_destroy_response(response);
}

void fb_request_answer(struct fb_request *r, int status, const char *type, char *bytes, size_t n)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n, bytes, MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(response, "Content-Type", type);
    queue(r, status, response);
}

void fb_request_preflight(struct fb_request *r, const char *headers, bool private_network)
{
    char methods[96];
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    snprintf(methods, sizeof methods, "%s, OPTIONS", r->allow);
    MHD_add_response_header(response, "Allow", methods);
    if (r->origin) {
        MHD_add_response_header(response, "Access-Control-Allow-Methods", methods);
        MHD_add_response_header(response, "Access-Control-Max-Age", "86400");
        if (headers) {
            MHD_add_response_header(response, "Access-Control-Allow-Headers", headers);
        }
        if (private_network) {
            MHD_add_response_header(response, "Access-Control-Allow-Private-Network", "true");
        }
    }
    queue(r, 204, response);
}

/* --- Streams ------------------------------------------------------------------------------- */

struct streamed_body {
    const struct fb_request *request;
    struct fb_body_source source;
    struct fb_buffer out; /* bytes before `sent` have been given to the library */
    size_t sent;
    bool more;
};

static ssize_t read_body(void *user, uint64_t pos, char *buf, size_t max)
{
    struct streamed_body *s = user;
    (void)pos;
    fb_connection_compute(s->request->connections, s->request->peer);
    while (s->sent == s->out.n && s->more) {
        fb_buffer_clear(&s->out);
        s->sent = 0;
        s->more = s->source.next(s->source.user, &s->out);
    }
    fb_connection_send(s->request->connections, s->request->peer);
    size_t n = s->out.n - s->sent;
    if (n == 0) {
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    n = n < max ? n : max;
    memcpy(buf, s->out.data + s->sent, n);
    s->sent += n;
    return (ssize_t)n;
}

static void free_body(void *user)
{
    struct streamed_body *s = user;
    s->source.free(s->source.user);
    fb_buffer_release(&s->out);
    free(s);
}

void fb_request_stream(struct fb_request *r, const char *type, const struct fb_body_source *source)
{
    struct streamed_body *s = fb_xcalloc(1, sizeof *s);
    *s = (struct streamed_body){
        .request = r, .source = *source, .out = FB_BUFFER_INIT, .more = true};
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_body, s, free_body);
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "Cache-Control", "no-cache");
    queue(r, 200, response);
}
