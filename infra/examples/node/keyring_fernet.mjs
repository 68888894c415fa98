// Reads a keyring of the format fernet: a comma-separated list, the primary first. Node has no Fernet;
// this follows https://github.com/fernet/spec/blob/master/Spec.md.
import { createDecipheriv, createHmac, timingSafeEqual } from "node:crypto";
import { keyId } from "./keyring_raw.mjs";

/** Version, 8 bytes of time, 16 of initialisation vector, ciphertext, 32 of HMAC. */
function open(key, token) {
  if (token.length < 73 || token[0] !== 0x80) return undefined;
  const [signed, tag] = [token.subarray(0, -32), token.subarray(-32)];
  const expected = createHmac("sha256", key.subarray(0, 16)).update(signed).digest();
  if (!timingSafeEqual(expected, tag)) return undefined;
  const decipher = createDecipheriv("aes-128-cbc", key.subarray(16), signed.subarray(9, 25));
  return Buffer.concat([decipher.update(signed.subarray(25)), decipher.final()]);
}

export class Keyring {
  constructor(secret, member) {
    this.keys = secret[member].split(",").map((text) => Buffer.from(text.trim(), "base64"));
    this.ids = this.keys.map(keyId);
    this.primary = this.ids[0];
  }

  /** undefined when no key of this keyring opens it. */
  decrypt(stored) {
    const token = Buffer.from(stored, "base64url");
    return this.keys.map((key) => open(key, token)).find(Boolean);
  }
}
