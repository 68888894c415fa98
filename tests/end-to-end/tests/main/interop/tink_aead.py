"""Tink keysets as Google's library uses them: one JSON request per line in, one JSON answer per line out."""

import base64
import io
import json
import sys

import tink
from tink import aead, cleartext_keyset_handle, secret_key_access
from tink.proto import tink_pb2

TEMPLATES = {
    "AES256_GCM": aead.aead_key_templates.AES256_GCM,
    "AES256_GCM_RAW": aead.aead_key_templates.AES256_GCM_RAW,
    "AES128_GCM": aead.aead_key_templates.AES128_GCM,
    "AES256_CTR_HMAC_SHA256": aead.aead_key_templates.AES256_CTR_HMAC_SHA256,
}


def written(handle):
    stream = io.StringIO()
    cleartext_keyset_handle.write(tink.JsonKeysetWriter(stream), handle)
    return stream.getvalue()


def answer(request):
    operation = request["op"]
    if operation == "generate":
        return {"keyset": written(tink.new_keyset_handle(TEMPLATES[request["template"]]))}
    handle = tink.json_proto_keyset_format.parse(request["keyset"], secret_key_access.TOKEN)
    if operation == "info":
        info = handle.keyset_info()
        return {
            "primary": info.primary_key_id,
            "keys": [
                {
                    "id": key.key_id,
                    "status": tink_pb2.KeyStatusType.Name(key.status),
                    "prefix": tink_pb2.OutputPrefixType.Name(key.output_prefix_type),
                    "type": key.type_url,
                }
                for key in info.key_info
            ],
        }
    if operation == "rewrite":
        return {"keyset": written(handle)}
    primitive = handle.primitive(aead.Aead)
    associated_data = base64.b64decode(request.get("associated_data", ""), validate=True)
    if operation == "encrypt":
        plaintext = base64.b64decode(request["plaintext"], validate=True)
        return {"ciphertext": base64.b64encode(primitive.encrypt(plaintext, associated_data)).decode()}
    if operation == "decrypt":
        ciphertext = base64.b64decode(request["ciphertext"], validate=True)
        return {"plaintext": base64.b64encode(primitive.decrypt(ciphertext, associated_data)).decode()}
    raise NotImplementedError


aead.register()
for line in sys.stdin:
    try:
        answered = answer(json.loads(line))
    except Exception as error:
        # The name alone: a message could hold a key.
        answered = {"error": type(error).__name__}
    print(json.dumps(answered), flush=True)
