#include "cmd/utf8.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/error.h"

/* Length of the character that begins with `lead`; 1 if none does. */
static size_t length_of(unsigned char lead)
{
    return lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
}

static bool continues(char byte)
{
    return ((unsigned char)byte & 0xc0) == 0x80;
}

static void release(struct utf8_begun *begun, FILE *out)
{
    fwrite(begun->bytes, 1, begun->n, out);
    begun->n = 0;
}

void utf8_print(struct utf8_begun *begun, const char *bytes, size_t n, FILE *out)
{
    for (size_t i = 0; i < n; i++) {
        if (begun->n > 0 && !continues(bytes[i])) { /* invalid: the character was cut off */
            release(begun, out);
        }
        begun->bytes[begun->n++] = bytes[i];
        if (begun->n >= length_of((unsigned char)begun->bytes[0])) {
            release(begun, out);
        }
    }
}

json_t *utf8_json(const char *text)
{
    json_t *value = json_string(text);
    if (value) {
        return value;
    }
    char *ascii = fb_xstrdup(text);
    for (char *p = ascii; *p; p++) {
        *p = (unsigned char)*p < 0x80 ? *p : '?';
    }
    value = json_string(ascii);
    free(ascii);
    return value;
}
