"""Reads a keyring of the format raw: AES-256-GCM, stored as base64 of nonce, ciphertext and tag."""
import base64
import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def key_id(key):
    return hashlib.sha256(b"rotation.key-id.v1\0" + key).hexdigest()[:8]


class Keyring:
    def __init__(self, secret, member):
        """`secret` is the JSON secret's members. Keys are base64, as of `openssl rand -base64 32`."""
        texts = [secret[member], secret.get(f"{member}_STAGED", "")]
        texts += secret.get(f"{member}_PREVIOUS", "").split(",")
        self.keys = [base64.b64decode(text, validate=True) for text in texts if text]
        self.ids = [key_id(key) for key in self.keys]
        self.primary = self.ids[0]

    def decrypt(self, stored):
        """None when no key of this keyring opens it."""
        stored = base64.b64decode(stored, validate=True)
        for key in self.keys:
            try:
                return AESGCM(key).decrypt(stored[:12], stored[12:], None)
            except InvalidTag:
                continue
        return None
