"""Fernet keyrings as the package cryptography uses them: one JSON request per line in, one JSON answer per line out."""

import base64
import json
import sys

from cryptography.fernet import Fernet, MultiFernet


def answer(request):
    operation = request["op"]
    if operation == "generate":
        return {"key": Fernet.generate_key().decode()}
    keyring = MultiFernet([Fernet(key) for key in request["keys"].split(",")])
    if operation == "encrypt":
        plaintext = base64.b64decode(request["plaintext"], validate=True)
        made = request.get("time")
        token = keyring.encrypt(plaintext) if made is None else keyring.encrypt_at_time(plaintext, made)
        return {"token": token.decode()}
    if operation == "time":
        return {"time": keyring.extract_timestamp(request["token"])}
    if operation == "decrypt":
        return {"plaintext": base64.b64encode(keyring.decrypt(request["token"])).decode()}
    if operation == "rotate":
        return {"token": keyring.rotate(request["token"]).decode()}
    raise NotImplementedError


for line in sys.stdin:
    try:
        answered = answer(json.loads(line))
    except Exception as error:
        # The name alone: a message could hold a key.
        answered = {"error": type(error).__name__}
    print(json.dumps(answered), flush=True)
