#!/usr/bin/env python3
"""A site with sessions and its issuer, as one Lambda function. The sessions are in the file SITE."""
import json
import os
import secrets
import urllib.request


def perform(event, site):
    sessions, operation = site["sessions"], event["operation"]
    if operation == "create":
        cookie = "session=" + secrets.token_hex(16)
        sessions[cookie] = event["version_id"]
        site["made"] += 1
        return {"members": {"SESSION_COOKIE": cookie}, "expires": site["expires"]}
    if operation == "verify":
        return {"status": "ok" if event["members"]["SESSION_COOKIE"] in sessions else "refused"}
    if operation == "revoke":
        sessions.pop(event["members"]["SESSION_COOKIE"], None)
    else:
        keep = [members["SESSION_COOKIE"] for members in event["keep"]]
        made = [cookie for cookie, device in sessions.items() if device == event["version_id"]]
        for cookie in made:
            if cookie not in keep:
                del sessions[cookie]
    return {"status": "gone"}


runtime = "http://%s/2018-06-01/runtime/invocation" % os.environ["AWS_LAMBDA_RUNTIME_API"]
while True:
    with urllib.request.urlopen(runtime + "/next") as response:
        id, event = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    with open(os.environ["SITE"]) as file:
        site = json.load(file)
    answer = {"version": 1, **perform(event, site)}
    with open(os.environ["SITE"], "w") as file:
        json.dump(site, file)
    urllib.request.urlopen("%s/%s/response" % (runtime, id), json.dumps(answer).encode())
