"""Reads a keyring of the format tink, a keyset of AES-256-GCM keys, with Google's library."""
import base64
import json

import tink
from tink import aead, secret_key_access

from keyring_raw import key_id

aead.register()


class Keyring:
    def __init__(self, secret, member):
        keyset = json.loads(secret[member])
        enabled = [key for key in keyset["key"] if key["status"] == "ENABLED"]
        # The key is the last field of the message AesGcmKey, 32 bytes long.
        ids = {key["keyId"]: key_id(base64.b64decode(key["keyData"]["value"])[-32:]) for key in enabled}
        self.ids, self.primary = list(ids.values()), ids[keyset["primaryKeyId"]]
        handle = tink.json_proto_keyset_format.parse(secret[member], secret_key_access.TOKEN)
        self.aead = handle.primitive(aead.Aead)

    def decrypt(self, stored):
        """None when no key of this keyring opens it."""
        try:
            return self.aead.decrypt(base64.b64decode(stored), b"")
        except tink.TinkError:
            return None
