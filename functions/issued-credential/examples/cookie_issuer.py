"""An issuer of session cookies: rotation:fields = "SESSION_COOKIE". It logs in as a person would, with the password in
the secret LOGIN_SECRET, {"user": …, "password": …}. PROVIDER_URL is the site.
"""
import json
import os
import urllib.error
import urllib.request

import boto3

SITE = os.environ["PROVIDER_URL"]
secrets_manager = boto3.client("secretsmanager")


def call(method, path, body=None, cookie=""):
    """The site's answer; a status other than 2xx throws."""
    headers = {"cookie": cookie, "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SITE + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read() or "null")


def create(event):
    login = json.loads(secrets_manager.get_secret_value(SecretId=os.environ["LOGIN_SECRET"])["SecretString"])
    # The device is how discard finds the session of this version.
    session = call("POST", "/login", {**login, "device": event["version_id"]})
    return {"members": {"SESSION_COOKIE": session["cookie"]}, "expires": session["expires"]}


def works(cookie):
    try:
        call("GET", "/me", cookie=cookie)
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        return False
    return True


def verify(event):
    return {"status": "ok" if works(event["members"]["SESSION_COOKIE"]) else "refused"}


def revoke(event):
    cookie = event["members"]["SESSION_COOKIE"]
    if works(cookie):
        call("POST", "/logout", {}, cookie)
    return {"status": "gone"}


def discard(event):
    # A session lists the sessions of its account. Without one that works there is nobody to ask.
    cookies = [members["SESSION_COOKIE"] for members in event["keep"]]
    known = next((cookie for cookie in cookies if works(cookie)), None)
    if known is None:
        return {"status": "later", "reason": "no session works"}
    kept = [call("GET", "/me", cookie=cookie)["session"] for cookie in cookies if works(cookie)]
    for session in call("GET", "/sessions", cookie=known):
        if session["device"] == event["version_id"] and session["id"] not in kept:
            call("POST", "/logout", {"session": session["id"]}, known)
    return {"status": "gone"}


def handler(event, _context):
    if event["version"] != 1:
        raise ValueError("another version of the contract")
    operations = {"create": create, "verify": verify, "revoke": revoke, "discard": discard}
    return {"version": 1, **operations[event["operation"]](event)}
