"""An issuer of client secrets, for a provider with an interface for them: rotation:fields = "CLIENT_SECRET CLIENT_SECRET_ID".

PROVIDER_URL and CLIENT_ID name the client; ADMIN_SECRET is the secret with the provider's administration token.
"""
import base64
import json
import os
import urllib.error
import urllib.request

import boto3

SECRETS = f"{os.environ['PROVIDER_URL']}/clients/{os.environ['CLIENT_ID']}/secrets"
secrets_manager = boto3.client("secretsmanager")


def call(method, url, body=None, authorization=None):
    """The provider's answer; a status other than 2xx throws."""
    if authorization is None:
        answer = secrets_manager.get_secret_value(SecretId=os.environ["ADMIN_SECRET"])
        authorization = "Bearer " + answer["SecretString"]
    headers = {"authorization": authorization, "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read() or "null")


def create(event):
    # The label is how discard finds what was made for this version.
    made = call("POST", SECRETS, {"label": event["version_id"]})
    return {"members": {"CLIENT_SECRET": made["secret"], "CLIENT_SECRET_ID": made["id"]}}


def verify(event):
    pair = f"{os.environ['CLIENT_ID']}:{event['members']['CLIENT_SECRET']}"
    basic = "Basic " + base64.b64encode(pair.encode()).decode()
    try:
        call("POST", f"{os.environ['PROVIDER_URL']}/token", {}, basic)
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise  # The provider does not say that the secret is wrong.
        return {"status": "refused", "reason": "invalid_client"}
    return {"status": "ok"}


def delete(ids):
    for secret in call("GET", SECRETS):
        if secret["id"] in ids:
            call("DELETE", f"{SECRETS}/{secret['id']}")
    return {"status": "gone"}


def revoke(event):
    # A member that is missing throws: "gone" would leave the credential alive without a trace.
    return delete([event["members"]["CLIENT_SECRET_ID"]])


def discard(event):
    keep = [members.get("CLIENT_SECRET_ID") for members in event["keep"]]
    made = [secret["id"] for secret in call("GET", SECRETS) if secret["label"] == event["version_id"]]
    return delete([secret for secret in made if secret not in keep])


def handler(event, _context):
    if event["version"] != 1:
        raise ValueError("another version of the contract")
    operations = {"create": create, "verify": verify, "revoke": revoke, "discard": discard}
    return {"version": 1, **operations[event["operation"]](event)}
