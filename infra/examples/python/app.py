"""Wires the parts: TOKEN_SECRET and, with keys, KEY_SECRET name the secrets; PORT is the port on 127.0.0.1."""
import importlib
import os
from http.server import ThreadingHTTPServer

import boto3

from health import Admin
from tokens import Tokens, read

client = boto3.client("secretsmanager")
Admin.tokens = Tokens(client, os.environ["TOKEN_SECRET"], "ADMIN_TOKEN")
Admin.instance = os.environ.get("INSTANCE_ID", "1")
if "KEY_SECRET" in os.environ:
    Keyring = importlib.import_module("keyring_" + os.environ["KEY_FORMAT"]).Keyring

    def load_keyrings():
        stages = [read(client, os.environ["KEY_SECRET"], stage) for stage in ("AWSCURRENT", "AWSPENDING")]
        return [Keyring(secret, "TOKEN_ENCRYPTION_KEY") for secret in stages if secret]

    Admin.load_keyrings = staticmethod(load_keyrings)
    Admin.keyrings = load_keyrings()
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Admin).serve_forever()
