"""The keyrings of infra/examples/python: one JSON request per line in, one JSON answer per line out."""
import importlib
import json
import sys

sys.path.insert(0, sys.argv[1])
for line in sys.stdin:
    request = json.loads(line)
    ring = importlib.import_module("keyring_" + request["format"]).Keyring(json.loads(request["secret"]), request["member"])
    plaintexts = [ring.decrypt(stored) for stored in request["stored"]]
    told = [plaintext and plaintext.decode() for plaintext in plaintexts]
    print(json.dumps({"ids": ring.ids, "primary": ring.primary, "plaintexts": told}), flush=True)
