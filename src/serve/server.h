/*
 * server.h - the HTTP server: OpenAI's, Ollama's and Anthropic's APIs over one service.
 *
 * Parts, each of which includes only parts below it:
 *
 *      server.c                            connections, limits, API keys      (libmicrohttpd)
 *      routes.c                            which handler for which method and path
 *      openai.c  ollama.c  anthropic.c  llamacpp.c
 *                                          one API each: a request read, an answer written
 *      ollama_models.c  info.c             models; health and metrics
 *      exchange.c                          a request that generates: jobs, deltas, streams
 *      params.c  answer.c  served.c        sampling fields; answers and errors; the model's card
 *      chat_fields.c  prompts.c            messages and tools; other prompts, biases
 *      listener.c  framing.c               sockets; malformed requests to refuse
 *      connections.c  request_memory.c     who may stay connected; memory for bodies
 *      http.c  fields.c  json_text.c  origins.c  hosts.c  buffer.c
 *      service.h                           many requests on one model, without HTTP
 */
#ifndef FB_SERVE_SERVER_H
#define FB_SERVE_SERVER_H

#include "serve/service.h"

struct fb_server;

struct fb_server_options {
    const char *host;    /* name or address to listen on, or "unix:PATH" */
    uint16_t port;       /* 0: any that is free */
    const char *api_key; /* that clients must send; NULL: none */
    const char *origins; /* web pages that may use it (origins.h); NULL: this machine's only */
    const char *name;    /* by which clients call the model */
    const char *path;    /* of the model's file, to describe it */
    const char *chat_template; /* instead of the model's; NULL: the model's */
    bool client_templates;     /* requests may bring their own: programs, which may never end */
    uint64_t body_max_bytes;   /* of a request */
    uint64_t requests_bytes;   /* memory for all bodies, and for parsing them */
    int connections_max;
    int timeout_s; /* deadline for a request to be received; also for a client to read or write */
};

void fb_server_options_init(struct fb_server_options *options);

/* Listens and answers, on threads of its own, until fb_server_stop: 503 to everything until
 * fb_server_serve. Strings of `options` must outlive the server. E_USAGE: the host is unknown.
 * E_IO: it is not of this machine, or the port in use. E_NOMEM: no thread. */
enum forebay_status fb_server_open(
    const struct fb_server_options *options, struct fb_server **out, struct forebay_error *err);

/* From now on requests are answered by the service, which must outlive the server. E_USAGE: the
 * template is invalid. E_IO: the file cannot be read. */
enum forebay_status fb_server_serve(
    struct fb_server *server, struct fb_service *service, struct forebay_error *err);

/* The port that the server listens on; 0: a Unix socket. */
uint16_t fb_server_port(const struct fb_server *server);
/* True if only this machine can connect. */
bool fb_server_is_local(const struct fb_server *server);

/* Ends the answers under way with an error. Blocks until the clients have it, 2 s at most. */
void fb_server_cancel(struct fb_server *server);
/* Closes all connections. Blocks until handlers have returned. NULL is ignored. */
void fb_server_stop(struct fb_server *server);

#endif
