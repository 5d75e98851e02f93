"""The exit codes of all commands; scripts in `launch/` and a table in `docs/` rely on them."""

FINISHED = 0
# The configuration, the data, the run's folder or a device cannot be used; one sentence says why.
# Python ends with it after a traceback, too.
MISTAKE = 1
# The words of the command line are wrong.
WRONG_COMMAND = 2
# Training was told to stop and has saved its state (EX_TEMPFAIL): start it again.
RESTART = 75
# Ctrl-C, as shells have it.
INTERRUPTED = 130
