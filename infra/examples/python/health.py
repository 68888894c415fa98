"""The verify URL and the refresh URL. A rotation asks both: `TARGET_VERIFY_URL`, `TARGET_REFRESH_URL`."""
import json
from http.server import BaseHTTPRequestHandler


class Admin(BaseHTTPRequestHandler):
    tokens = None  # Tokens
    load_keyrings = None  # a function: the keyrings of AWSCURRENT and, if it exists, of AWSPENDING
    keyrings = []
    instance = "1"  # another one for each instance behind the address

    def do_GET(self):  # /admin/health
        if self.authorised():
            ids = [one for keyring in self.keyrings for one in keyring.ids]
            primary = [keyring.primary for keyring in self.keyrings[:1]]
            self.answer(200, {"key_ids": ids, "primary_key_ids": primary})

    def do_POST(self):  # /admin/refresh
        if self.authorised():
            self.tokens.load()
            if self.load_keyrings:
                type(self).keyrings = self.load_keyrings()
            self.answer(200, {})  # after the reload, not before it

    def authorised(self):
        accepted = self.tokens.accepts(self.headers.get("x-admin-token", ""))
        if not accepted:
            self.answer(401, {})
        return accepted

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("x-instance-id", self.instance)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
