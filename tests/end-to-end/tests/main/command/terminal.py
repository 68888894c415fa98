"""terminal.py TYPED PROGRAM ARGUMENT...: runs a program on a terminal, types, and passes on what it shows."""

import os
import pty
import sys

typed, program = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execv(program[0], program)
# A tab separates what is typed at one prompt from what is typed at the next.
texts = typed.split("\t")
while True:
    try:
        shown = os.read(terminal, 4096)
    except OSError:
        break
    if not shown:
        break
    sys.stdout.buffer.write(shown)
    # Each prompt ends with a colon and a blank.
    if texts and shown.rstrip(b" ").endswith(b":"):
        os.write(terminal, texts.pop(0).encode())
_, status = os.waitpid(child, 0)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(status))
