/* framing.h - requests whose end or headers different programs would understand differently. */
#ifndef FB_SERVE_FRAMING_H
#define FB_SERVE_FRAMING_H

struct MHD_Connection;

/* Returns the fault of the request's headers, as a sentence without a full stop; NULL: none. The
 * connection must be closed after a faulty request, because nobody knows where the next one begins.
 * `method` and `version` as libmicrohttpd gives them to the handler; `uri_end`: the byte after the
 * terminator of the URI that it gives to the log callback. */
const char *fb_framing_fault(struct MHD_Connection *connection, const char *method,
    const char *version, const char *uri_end);

#endif
