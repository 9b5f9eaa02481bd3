/* stubs.c - stands in for subcommands until their files exist. */
#include "cmd/cmd.h"

__attribute__((weak)) int cmd_run(int argc, char **argv)
{
    (void)argc, (void)argv;
    return CMD_FAILED;
}

__attribute__((weak)) int cmd_verify(int argc, char **argv)
{
    (void)argc, (void)argv;
    return CMD_FAILED;
}

__attribute__((weak)) int cmd_synth(int argc, char **argv)
{
    (void)argc, (void)argv;
    return CMD_FAILED;
}
