"""Reads a keyring of the format fernet with `MultiFernet`: a comma-separated list, the primary first."""
import base64

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from keyring_raw import key_id


class Keyring:
    def __init__(self, secret, member):
        texts = [text.strip() for text in secret[member].split(",")]
        self.ids = [key_id(base64.urlsafe_b64decode(text)) for text in texts]
        self.primary = self.ids[0]
        self.fernet = MultiFernet([Fernet(text) for text in texts])

    def decrypt(self, stored):
        """None when no key of this keyring opens it."""
        try:
            return self.fernet.decrypt(stored)
        except InvalidToken:
            return None
