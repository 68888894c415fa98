"""Calls to an emulator, one JSON line in and one out; an application that requires the admin token; a relay; zips.

The account's root makes the calls, or a role when one is named. Standard input ends it.
"""

import base64
import http.server
import io
import json
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, token_secret, token_field = sys.argv[1:4]
# A delivery waits for more than a minute.
config = Config(retries={"max_attempts": 0}, read_timeout=240)
clients = {}
listed = {}


def client(service, role=None):
    if (service, role) not in clients:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        if role:
            session = client("sts").assume_role(RoleArn=role, RoleSessionName="proof")["Credentials"]
            keys = {
                "aws_access_key_id": session["AccessKeyId"],
                "aws_secret_access_key": session["SecretAccessKey"],
                "aws_session_token": session["SessionToken"],
            }
        clients[service, role] = boto3.client(
            service, endpoint_url=endpoint, region_name="us-east-1", config=config, **keys
        )
    return clients[service, role]


class Application(http.server.BaseHTTPRequestHandler):
    """Accepts the token of AWSCURRENT and that of AWSPENDING, as an application has to."""

    def accepted(self):
        for stage in ("AWSCURRENT", "AWSPENDING"):
            try:
                value = client("secretsmanager").get_secret_value(SecretId=token_secret, VersionStage=stage)
            except ClientError:
                continue
            # A pending version that the function has not written yet has no token.
            if token := json.loads(value["SecretString"]).get(token_field):
                yield token

    def answer(self):
        accepted = self.headers.get("x-admin-token") in set(self.accepted())
        self.send_response(200 if accepted else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, *arguments):
        pass


class Relay(http.server.BaseHTTPRequestHandler):
    """The emulator, which tells neither in a listing which function rotates a secret, nor any time in the past."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = urllib.request.Request(endpoint + self.path, body, dict(self.headers), method="POST")
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            said = answer.read()
            operation = self.headers.get("x-amz-target")
            if operation in ("secretsmanager.ListSecrets", "secretsmanager.DescribeSecret") and answer.status == 200:
                told = json.loads(said)
                for secret in told.get("SecretList", [told]):
                    secret.update(listed.get(secret["Name"], {}))
                said = json.dumps(told).encode()
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    def log_message(self, *arguments):
        pass


def zipped(folder):
    """The zip of a function, as `sam package` makes it, and what is in it."""
    buffer = io.BytesIO()
    names = []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                names.append(str(path.relative_to(folder)))
                archive.write(path, names[-1])
    return {"zip": base64.b64encode(buffer.getvalue()).decode(), "names": names}


def perform(request):
    if "zip" in request:
        return zipped(request["zip"])
    if "list" in request:
        past = time.time() - 2 * 24 * 3600
        listed[request["list"]] = {
            "RotationLambdaARN": request["function"], "LastRotatedDate": past, "LastChangedDate": past
        }
        return None
    parameters = request["parameters"]
    if "ZipFile" in parameters.get("Code", {}):
        parameters["Code"]["ZipFile"] = base64.b64decode(parameters["Code"]["ZipFile"])
    answer = getattr(client(request["service"], request.get("role")), request["operation"])(**parameters)
    answer.pop("ResponseMetadata", None)
    if "Payload" in answer:
        answer["Payload"] = json.loads(answer["Payload"].read())
    return answer


servers = {}
for name, handler in (("application", Application), ("relay", Relay)):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[name] = server.server_port
print(json.dumps(servers), flush=True)
for line in sys.stdin:
    try:
        answer = {"answer": perform(json.loads(line))}
    except ClientError as error:
        answer = {"error": error.response["Error"]["Code"], "message": error.response["Error"]["Message"]}
    print(json.dumps(answer, default=str), flush=True)
