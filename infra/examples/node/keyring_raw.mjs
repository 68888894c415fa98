// Reads a keyring of the format raw: AES-256-GCM, stored as base64 of nonce, ciphertext and tag.
import { createDecipheriv, createHash } from "node:crypto";

export function keyId(key) {
  return createHash("sha256").update("rotation.key-id.v1\0").update(key).digest("hex").slice(0, 8);
}

/** Opens nonce, ciphertext and tag; undefined when it is another key. */
export function open(key, bytes) {
  const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, 12), { authTagLength: 16 });
  decipher.setAuthTag(bytes.subarray(-16));
  const text = decipher.update(bytes.subarray(12, -16));
  try {
    return Buffer.concat([text, decipher.final()]);
  } catch {
    return undefined;
  }
}

export class Keyring {
  /** `secret` is the JSON secret's members. Keys are base64, as of `openssl rand -base64 32`. */
  constructor(secret, member) {
    const secondary = (secret[`${member}_PREVIOUS`] ?? "").split(",");
    const texts = [secret[member], secret[`${member}_STAGED`], ...secondary].filter(Boolean);
    this.keys = texts.map((text) => Buffer.from(text, "base64"));
    this.ids = this.keys.map(keyId);
    this.primary = this.ids[0];
  }

  /** undefined when no key of this keyring opens it. */
  decrypt(stored) {
    const bytes = Buffer.from(stored, "base64");
    return this.keys.map((key) => open(key, bytes)).find(Boolean);
  }
}
