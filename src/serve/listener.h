/*
 * listener.h - the sockets that clients connect to: TCP on every address of a host, or a Unix
 * socket.
 *
 * An address belongs to one server: if another program listens there, opening fails.
 */
#ifndef FB_SERVE_LISTENER_H
#define FB_SERVE_LISTENER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "forebay.h"

struct fb_listener;

/* Listens on `host`: a name or an address of this machine ("localhost" is both of its addresses,
 * "::" is every address of either family), or "unix:PATH". Port 0: any that is free. E_USAGE: the
 * host is unknown or the path too long. E_IO: the address is not of this machine, or in use. */
enum forebay_status fb_listener_open(
    const char *host, uint16_t port, struct fb_listener **out, struct forebay_error *err);
/* No thread may be in fb_listener_accept. Removes the Unix socket. NULL is ignored. */
void fb_listener_close(struct fb_listener *listener);

/* True if `host` is that of a Unix socket. */
bool fb_listener_is_unix(const char *host);
/* The port; 0: it is a Unix socket. */
uint16_t fb_listener_port(const struct fb_listener *listener);
/* True if only this machine can connect. */
bool fb_listener_is_local(const struct fb_listener *listener);

/* Blocks until a client connects or fb_listener_stop is called. Returns the client's socket, or -1
 * with errno (ECANCELED: stopped). */
int fb_listener_accept(
    struct fb_listener *listener, struct sockaddr_storage *client, socklen_t *length);
/* Ends fb_listener_accept, now and ever after. Any thread. */
void fb_listener_stop(struct fb_listener *listener);

#endif
