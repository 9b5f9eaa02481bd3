/*
 * server.c - connections, limits and API keys: the life of a request until its handler is called.
 *
 * libmicrohttpd has a thread for each connection, and calls on_request several times per request:
 *
 *      headers --start--> body, in pieces --add_body--> end --answer--> handler
 *         '- refused (status and reason are stored) ...........'   '- or the stored refusal
 *
 * A refused body is read and discarded, as most clients do not read an answer before they have sent
 * all; but one whose announced length is too large is refused at once, and one that is much larger
 * than allowed is cut off.
 */
#include "serve/server.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "serve/answer.h"
#include "serve/deadlines.h"
#include "serve/routes.h"
#include "serve/served.h"

#define HEADERS_MAX_BYTES ((size_t)64 << 10)
#define DISCARD_FACTOR    4 /* a body of more than this times the limit is cut off */

struct fb_server {
    struct fb_server_options options;
    struct fb_served served;
    struct MHD_Daemon *daemon;
    struct fb_deadlines *deadlines;
    bool loopback; /* listens on this machine only */
};

/* A request that is being received. */
struct intake {
    struct fb_request request;
    struct fb_server *server;
    struct fb_route_match match;
    uint64_t received_bytes; /* of the body */
    int refused;             /* HTTP status; 0: it is not */
    char reason[256];
};

static const char *header(const struct intake *in, const char *name)
{
    return MHD_lookup_connection_value(in->request.connection, MHD_HEADER_KIND, name);
}

/* --- Deadlines of connections -------------------------------------------------------------- */

static struct fb_deadline *deadline_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* A connection was opened or is about to be closed. */
static void on_connection(void *user, struct MHD_Connection *connection, void **context,
    enum MHD_ConnectionNotificationCode what)
{
    struct fb_server *s = user;
    struct fb_deadline *d = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = d = fb_xcalloc(1, sizeof *d);
        d->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        fb_deadline_start(s->deadlines, d);
    } else {
        fb_deadline_stop(s->deadlines, d);
        free(d);
    }
}

/* --- Permission ---------------------------------------------------------------------------- */

/* Takes a time that depends on the length of `offered` only. */
static bool same_key(const char *offered, const char *key)
{
    size_t n = strlen(offered), n_key = strlen(key);
    volatile unsigned char differ = n != n_key;
    for (size_t i = 0; i < n; i++) {
        differ |= (unsigned char)(offered[i] ^ key[i % (n_key + 1)]);
    }
    return differ == 0;
}

static bool has_key(const struct intake *in)
{
    const char *key = in->server->options.api_key;
    const char *bearer = header(in, "Authorization"), *plain = header(in, "x-api-key");
    if (!key || (in->match.route && in->match.route->flags & FB_ROUTE_OPEN)) {
        return true;
    }
    bool good = bearer && strncasecmp(bearer, "Bearer ", 7) == 0 && same_key(bearer + 7, key);
    return good | (plain && same_key(plain, key));
}

/* True for "NAME" and "NAME:8080". */
static bool is_host(const char *host, const char *name)
{
    size_t n = strlen(name);
    return strncasecmp(host, name, n) == 0 && (!host[n] || host[n] == ':');
}

/* "localhost:8080", "127.0.0.1", "[::1]:8080", "http://localhost" */
static bool names_loopback(const char *host)
{
    const char *scheme = strstr(host, "://");
    host = scheme ? scheme + 3 : host;
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (is_host(host, names[i])) {
            return true;
        }
    }
    return false;
}

/* A web page of another site must not use a server that only this machine can reach, neither
 * directly (Origin) nor by a name of its own that resolves to this machine (Host). */
static bool is_foreign_page(const struct intake *in)
{
    const struct fb_server *s = in->server;
    const char *host = header(in, "Host"), *origin = header(in, "Origin");
    if (!s->loopback || s->options.api_key) {
        return false;
    }
    bool host_ok = !host || names_loopback(host) || is_host(host, s->options.host);
    return !host_ok || (origin && !names_loopback(origin));
}

/* --- Receiving a request ------------------------------------------------------------------- */

/* The first refusal counts. */
__attribute__((format(printf, 3, 4))) static void refuse(
    struct intake *in, int status, const char *format, ...)
{
    if (!in->refused) {
        va_list ap;
        va_start(ap, format);
        vsnprintf(in->reason, sizeof in->reason, format, ap);
        va_end(ap);
        in->refused = status;
    }
}

static void refuse_size(struct intake *in)
{
    refuse(in, 413, "the body is larger than the limit of %s (--body-max)",
        FB_SIZE(in->server->options.body_max_bytes));
}

static void note_client(struct fb_request *r)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)info->client_addr;
        inet_ntop(AF_INET, &in->sin_addr, r->client, sizeof r->client);
    } else if (info && info->client_addr->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in =
            (const struct sockaddr_in6 *)(const void *)info->client_addr;
        inet_ntop(AF_INET6, &in->sin6_addr, r->client, sizeof r->client);
    }
}

/* Without permission, nothing is said about paths. */
static void check_headers(struct intake *in, const char *method, const char *path)
{
    if (is_foreign_page(in)) {
        refuse(in, 403,
            "requests from web pages of other sites are refused while the server has no --api-key");
    } else if (!has_key(in)) {
        refuse(in, 401, "wrong or missing API key: send 'Authorization: Bearer KEY'");
    } else if (in->match.status == 404) {
        refuse(in, 404, "no such path: %s", path);
    } else if (in->match.status == 405) {
        refuse(in, 405, "method %s is not allowed for %s; use %s", method, path, in->match.allow);
    }
    const char *length = header(in, "Content-Length");
    if (length && strtoull(length, NULL, 10) > in->server->options.body_max_bytes) {
        refuse_size(in);
    }
}

static struct intake *start(struct fb_server *server, struct MHD_Connection *connection,
    const char *method, const char *path)
{
    struct intake *in = fb_xcalloc(1, sizeof *in);
    struct fb_request *r = &in->request;
    in->server = server;
    fb_route_find(method, path, &in->match);
    r->served = &server->served;
    r->api = in->match.api;
    r->connection = connection;
    r->timeout_s = server->options.timeout_s;
    r->allow = in->match.allow;
    r->result = MHD_NO;
    fb_buffer_init(&r->body);
    snprintf(r->rest, sizeof r->rest, "%s", in->match.rest);
    note_client(r);
    check_headers(in, method, path);
    return in;
}

/* Receives a piece of the body. False: close the connection. */
static bool add_body(struct intake *in, const char *data, size_t n)
{
    uint64_t max = in->server->options.body_max_bytes;
    in->received_bytes += n;
    if (in->received_bytes > max) {
        refuse_size(in);
        fb_buffer_release(&in->request.body);
    }
    if (!in->refused) {
        fb_buffer_add(&in->request.body, data, n);
    }
    return in->received_bytes <= DISCARD_FACTOR * max;
}

static void answer(struct intake *in)
{
    struct fb_request *r = &in->request;
    fb_deadline_stop(in->server->deadlines, deadline_of(r->connection));
    fb_request_set_timeout(r, 0);
    if (in->refused) {
        fb_answer_error(r, in->refused, "%s", in->reason);
    } else {
        in->match.route->handle(r);
    }
    FB_ASSERT(r->answered);
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
    const char *method, const char *version, const char *data, size_t *n, void **state)
{
    struct intake *in = *state;
    (void)version;
    if (!in) {
        *state = in = start(user, connection, method, path);
        fb_deadline_start(in->server->deadlines, deadline_of(connection)); /* for the body */
        if (in->refused == 413) { /* before the client sends all of it */
            answer(in);
            return in->request.result;
        }
        return MHD_YES;
    }
    if (*n > 0) {
        bool go_on = add_body(in, data, *n);
        *n = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    if (!in->request.answered) {
        answer(in);
    }
    return in->request.result;
}

/* A request is over, answered or not. */
static void on_end(void *user, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode why)
{
    struct fb_server *s = user;
    struct intake *in = *state;
    (void)why;
    fb_deadline_start(s->deadlines, deadline_of(connection)); /* for the next request */
    if (in) {
        fb_buffer_release(&in->request.body);
        free(in);
        *state = NULL;
    }
}

/* A NUL in a path must not end it: "/v1/models%00x" is no path of ours. */
static size_t unescape(void *user, struct MHD_Connection *connection, char *text)
{
    (void)user, (void)connection;
    size_t n = MHD_http_unescape(text);
    for (size_t i = 0; i < n; i++) {
        text[i] = text[i] ? text[i] : '\1';
    }
    return n;
}

static void on_log(void *user, const char *format, va_list ap)
{
    char line[512];
    (void)user;
    vsnprintf(line, sizeof line, format, ap);
    line[strcspn(line, "\n")] = 0;
    fb_debug("http: %s", line);
}

/* --- Life ---------------------------------------------------------------------------------- */

void fb_server_options_init(struct fb_server_options *o)
{
    *o = (struct fb_server_options){
        .host = "127.0.0.1",
        .port = 8080,
        .body_max_bytes = 16 * FB_MIB,
        .connections_max = 128,
        .timeout_s = 60,
    };
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        return (ntohl(in->sin_addr.s_addr) >> 24) == 127;
    }
    const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)address;
    return IN6_IS_ADDR_LOOPBACK(&in->sin6_addr);
}

static struct MHD_Daemon *listen_on(struct fb_server *s, const struct addrinfo *address)
{
    const struct fb_server_options *o = &s->options;
    unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD |
                     MHD_USE_POLL | MHD_USE_ERROR_LOG | MHD_USE_ITC;
    if (address->ai_family == AF_INET6) {
        flags |= MHD_USE_IPv6;
    }
    s->loopback = is_loopback(address->ai_addr);
    return MHD_start_daemon(flags, o->port, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER,
        on_log, NULL, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL, MHD_OPTION_SOCK_ADDR,
        address->ai_addr, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_NOTIFY_COMPLETED, on_end, s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)o->connections_max, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, HEADERS_MAX_BYTES, MHD_OPTION_LISTENING_ADDRESS_REUSE,
        1u, MHD_OPTION_END);
}

static enum forebay_status start_daemon(struct fb_server *s, struct forebay_error *err)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    s->deadlines = fb_deadlines_new(s->options.timeout_s);
    if (!s->deadlines) {
        return fb_fail(err, FOREBAY_E_NOMEM, "", "cannot start a thread");
    }
    snprintf(port, sizeof port, "%u", s->options.port);
    int rc = getaddrinfo(s->options.host, port, &hints, &list);
    if (rc != 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a name or an address of this machine.",
            "--host %s: %s", s->options.host, gai_strerror(rc));
    }
    s->daemon = listen_on(s, list);
    freeaddrinfo(list);
    return s->daemon ? FOREBAY_OK
                     : fb_fail(err, FOREBAY_E_IO,
                           "Another program may be listening there: choose another --port.",
                           "cannot listen on %s, port %u", s->options.host, s->options.port);
}

uint16_t fb_server_port(const struct fb_server *s)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : s->options.port;
}

static void release(struct fb_server *s)
{
    fb_deadlines_free(s->deadlines);
    fb_served_release(&s->served);
    free(s);
}

enum forebay_status fb_server_start(struct fb_service *service,
    const struct fb_server_options *options, struct fb_server **out, struct forebay_error *err)
{
    struct fb_server *s = fb_xcalloc(1, sizeof *s);
    s->options = *options;
    enum forebay_status status = fb_served_init(
        &s->served, service, options->name, options->path, options->chat_template, err);
    s->served.client_templates = options->client_templates;
    if (status == FOREBAY_OK) {
        status = start_daemon(s, err);
    }
    if (status != FOREBAY_OK) {
        release(s);
        return status;
    }
    *out = s;
    return FOREBAY_OK;
}

void fb_server_stop(struct fb_server *s)
{
    if (s) {
        s->served.stopping = true;
        MHD_stop_daemon(s->daemon);
        release(s);
    }
}
