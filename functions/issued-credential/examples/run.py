#!/usr/bin/env python3
"""Runs the handler in the file ISSUER in the sandbox. In Lambda, the runtime for Python does this."""
import json
import os
import runpy
import traceback
import urllib.request

handler = runpy.run_path(os.environ["ISSUER"])["handler"]
runtime = "http://%s/2018-06-01/runtime/invocation" % os.environ["AWS_LAMBDA_RUNTIME_API"]
while True:
    with urllib.request.urlopen(runtime + "/next") as response:
        id, event = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    try:
        what, answer = "response", handler(event, None)
    except Exception as error:
        traceback.print_exc()  # As Lambda's runtime does, for the function's log.
        what, answer = "error", {"errorType": type(error).__name__, "errorMessage": str(error)}
    urllib.request.urlopen("%s/%s/%s" % (runtime, id, what), json.dumps(answer).encode())
