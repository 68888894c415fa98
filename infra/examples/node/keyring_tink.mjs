// Reads a keyring of the format tink: a keyset of AES-256-GCM keys. Tink has no library for Node; this
// follows its wire format, https://developers.google.com/tink/wire-format.
import { keyId, open } from "./keyring_raw.mjs";

export class Keyring {
  constructor(secret, member) {
    const keyset = JSON.parse(secret[member]);
    const enabled = keyset.key.filter((entry) => entry.status === "ENABLED");
    this.keys = enabled.map((entry) => {
      // The key is the last field of the message AesGcmKey, 32 bytes long.
      const key = Buffer.from(entry.keyData.value, "base64").subarray(-32);
      const prefix = Buffer.from([1, 0, 0, 0, 0]);
      prefix.writeUInt32BE(entry.keyId, 1);
      return { key, prefix: entry.outputPrefixType === "TINK" ? prefix : Buffer.alloc(0) };
    });
    this.ids = this.keys.map(({ key }) => keyId(key));
    this.primary = this.ids[enabled.findIndex((entry) => entry.keyId === keyset.primaryKeyId)];
  }

  /** undefined when no key of this keyring opens it. */
  decrypt(stored) {
    const bytes = Buffer.from(stored, "base64");
    const named = this.keys.filter(({ prefix }) => bytes.subarray(0, prefix.length).equals(prefix));
    return named.map(({ key, prefix }) => open(key, bytes.subarray(prefix.length))).find(Boolean);
  }
}
