/*
 * cmd.h - the subcommands, for the table in main.c. cmd_NAME is in NAME.c.
 *
 * argv[0] is the name of the subcommand; the result is the exit code (options.h).
 */
#ifndef FB_CMD_CMD_H
#define FB_CMD_CMD_H

/* Processors that other programs may use before measured speeds are said to be too low. */
#define CMD_BUSY_CORES 0.25

int cmd_run(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_optimize(int argc, char **argv);
int cmd_profile(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_sim(int argc, char **argv);
int cmd_synth(int argc, char **argv);

#endif
