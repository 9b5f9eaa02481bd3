#include "cmd/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

/* The code point that the text begins with, and its length; the first byte if the text does not
 * begin with a valid character. */
static uint32_t decode(const char *text, size_t n, size_t *length)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char lead = (unsigned char)text[0];
    size_t want = length_of(lead), got = 1;
    uint32_t code = want == 1 ? lead : lead & (0x7fu >> want);
    while (got < want && got < n && continues(text[got])) {
        code = code << 6 | ((unsigned char)text[got++] & 0x3f);
    }
    bool valid = got == want && code >= smallest[want];
    *length = valid ? want : 1;
    return valid ? code : lead;
}

size_t utf8_clean(char *text, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0, length; i < n; i += length) {
        uint32_t c = decode(text + i, n - i, &length);
        bool control = c < 0x20 || (c >= 0x7f && c < 0xa0);
        if (c == '\r') {
            continue;
        }
        if (control && c != '\n' && c != '\t') {
            text[kept++] = '?';
            continue;
        }
        memmove(text + kept, text + i, length);
        kept += length;
    }
    return kept;
}

static void release(struct utf8_begun *begun, FILE *out)
{
    begun->n = begun->clean ? utf8_clean(begun->bytes, begun->n) : begun->n;
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
