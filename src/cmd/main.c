/* main.c - the `forebay` program: the table of subcommands. */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/options.h"

static const struct cmd_entry commands[] = {
    {"run", cmd_run, "generate text with a model of any size"},
    {"chat", cmd_chat, "talk with a model in the terminal"},
    {"serve", cmd_serve, "serve a model through the APIs of OpenAI, Ollama and Anthropic"},
    {"verify", cmd_verify, "check that logits equal llama.cpp's bit by bit"},
    {"bench", cmd_bench, "measure a model's speed, optionally next to llama.cpp"},
    {"plan", cmd_plan, "show the placement of a model's weights, and estimate its speed"},
    {"optimize", cmd_optimize, "write a model's weights in the layout of this CPU"},
    {"profile", cmd_profile, "measure this machine"},
    {"inspect", cmd_inspect, "show the contents of a model file"},
    {"sim", cmd_sim, "simulate a routing trace: hit rates and speed for any memory size"},
    {"synth", cmd_synth, "make test models of any size"},
    {0},
};

/* If a standard descriptor is closed, a file opened later would get its number, and --file - would
 * read the model. So each is occupied: with /dev/null opened in the direction in which it is not
 * used, so that using it still fails. */
static void occupy_closed_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        int copy = dup(fd);
        if (copy >= 0) {
            close(copy);
        } else if (!fopen("/dev/null", fd ? "r" : "w")) {
            return;
        }
    }
}

/* Reports output that was lost: a full disk, a closed descriptor. */
static int close_stdout(int rc)
{
    if ((fflush(stdout) || ferror(stdout)) && rc == CMD_OK) {
        fprintf(stderr, "forebay: cannot write to standard output: %s\n", strerror(errno));
        return CMD_FAILED;
    }
    return rc;
}

int main(int argc, char **argv)
{
    occupy_closed_descriptors();
    signal(SIGXFSZ, SIG_IGN); /* files beyond ulimit -f: EFBIG, with a message */
    int rc = cmd_dispatch("forebay",
        "Runs language models bigger than memory, with exactly llama.cpp's tokens.", commands, argc,
        argv);
    return close_stdout(rc);
}
