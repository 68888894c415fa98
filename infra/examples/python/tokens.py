"""Accepts three tokens: current, pending, and previous until its time. For a JSON secret, with boto3."""
import hmac
import json
from datetime import datetime, timezone


def read(client, secret_id, stage):
    """The members of a version; None if no version has the label, or the version has no value yet."""
    try:
        answer = client.get_secret_value(SecretId=secret_id, VersionStage=stage)
    except client.exceptions.ResourceNotFoundException:
        return None
    return json.loads(answer["SecretString"])


class Tokens:
    def __init__(self, client, secret_id, member):
        self.client, self.secret_id, self.member = client, secret_id, member
        self.load()

    def load(self):
        """Call it at start, on a refresh, and every few minutes."""
        current = read(self.client, self.secret_id, "AWSCURRENT")
        pending = read(self.client, self.secret_id, "AWSPENDING")
        # Both are replaced after both reads: when a read fails, the old ones stay.
        self.current, self.pending = current, pending

    def accepts(self, token):
        # Another thread may load meanwhile.
        current, pending = self.current, self.pending
        accepted = [current[self.member]]
        if pending:
            accepted.append(pending[self.member])
        until = current.get(f"{self.member}_PREVIOUS_UNTIL")
        if until and datetime.now(timezone.utc) < datetime.fromisoformat(until.replace("Z", "+00:00")):
            accepted.append(current[f"{self.member}_PREVIOUS"])
        # A list: each comparison is made, and each takes the same time.
        return any([hmac.compare_digest(token.encode(), one.encode()) for one in accepted])
