/*
 * wrap.h - prints streamed text so that lines break between words at the edge of a terminal.
 *
 * Text is printed as soon as it arrives. A word that reaches the edge is erased and printed again
 * on the next line:
 *
 *      |the quick brown fo|      "x" arrives:      |the quick brown   |
 *                                                  |fox               |
 *
 * Words wider than the terminal, and lines of code (between ``` fences), are left to the terminal,
 * so that copying them gives what the model wrote.
 */
#ifndef FB_CMD_WRAP_H
#define FB_CMD_WRAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Zero it, except `out`, when the cursor is at the start of a line. */
struct wrap {
    FILE *out;
    int column;     /* of the cursor */
    char word[256]; /* printed since the last space, if it fits */
    size_t n;
    int word_columns;
    int fence; /* backquotes that the line began with; -1: something else follows */
    bool code; /* between fences */
};

/* Prints n bytes, in whole UTF-8 characters. columns: width of the terminal; 0: no wrapping. False
 * if writing failed. */
bool wrap_print(struct wrap *wrap, const char *text, size_t n, int columns);

#endif
