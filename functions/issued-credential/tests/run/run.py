"""Runs the handler of a module: one event a line in, one answer a line out."""
import importlib
import json
import sys

handler = importlib.import_module(sys.argv[1]).handler
for line in sys.stdin:
    try:
        answer = {"answer": handler(json.loads(line), None)}
    except Exception as error:
        answer = {"threw": type(error).__name__, "why": str(error)}
    print(json.dumps(answer), flush=True)
