/* main.c - the `forebay` program: the table of subcommands, nothing else. */
#include "cmd/cmd.h"
#include "cmd/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct cmd_entry commands[] = {
    {"run", cmd_run, "generate text with a model of any size"},
    {"chat", cmd_chat, "talk with a model in the terminal"},
    {"serve", cmd_serve, "serve a model: the APIs of OpenAI, Ollama and Anthropic"},
    {"verify", cmd_verify, "check that the logits equal llama.cpp's bit by bit"},
    {"bench", cmd_bench, "measure a model's speed, also against llama.cpp"},
    {"plan", cmd_plan, "show where a model would go, and how fast it would run"},
    {"optimize", cmd_optimize, "write a model's weights as this CPU computes with them"},
    {"profile", cmd_profile, "measure this machine"},
    {"inspect", cmd_inspect, "show what is in a model file"},
    {"sim", cmd_sim, "replay a routing trace: hit rates and speed at any size of memory"},
    {"synth", cmd_synth, "make test models of any size"},
    {0},
};

/* A standard descriptor that is closed stays unusable, but no file opened later gets its number:
 * --file - would read the model. */
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

/* A full disk or a closed descriptor must not look like success. */
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
    int rc = cmd_dispatch("forebay",
        "Runs language models bigger than memory, with exactly llama.cpp's tokens.", commands, argc,
        argv);
    return close_stdout(rc);
}
