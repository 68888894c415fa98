// AES-256-GCM as Node's crypto does it: one JSON request per line in, one JSON answer per line out.
"use strict";

const crypto = require("node:crypto");
const readline = require("node:readline");

const NONCE = 12;
const TAG = 16;

class InvalidKey extends Error {}
class InvalidCiphertext extends Error {}
class InvalidPlaintext extends Error {}
class UnknownOperation extends Error {}

/** The bytes of standard base64 with padding; Node alone would skip whatever is not base64. */
function decoded(text, Invalid) {
  const bytes = Buffer.from(text, "base64");
  if (bytes.toString("base64") !== text) throw new Invalid();
  return bytes;
}

function key(text) {
  const bytes = decoded(text, InvalidKey);
  if (bytes.length !== 32) throw new InvalidKey();
  return bytes;
}

function encrypt(secret, plaintext) {
  const nonce = crypto.randomBytes(NONCE);
  const cipher = crypto.createCipheriv("aes-256-gcm", secret, nonce, { authTagLength: TAG });
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

/** Nothing when the key does not open it. */
function decrypt(secret, ciphertext) {
  const nonce = ciphertext.subarray(0, NONCE);
  const decipher = crypto.createDecipheriv("aes-256-gcm", secret, nonce, { authTagLength: TAG });
  decipher.setAuthTag(ciphertext.subarray(-TAG));
  const plaintext = decipher.update(ciphertext.subarray(NONCE, -TAG));
  try {
    return Buffer.concat([plaintext, decipher.final()]);
  } catch {
    return undefined;
  }
}

function answer(request) {
  switch (request.op) {
    case "encrypt": {
      const plaintext = decoded(request.plaintext, InvalidPlaintext);
      return { ciphertext: encrypt(key(request.key), plaintext).toString("base64") };
    }
    case "decrypt": {
      const ciphertext = decoded(request.ciphertext, InvalidCiphertext);
      if (ciphertext.length < NONCE + TAG) throw new InvalidCiphertext();
      for (const secret of request.keys.map(key)) {
        const plaintext = decrypt(secret, ciphertext);
        if (plaintext !== undefined) return { plaintext: plaintext.toString("base64") };
      }
      throw new InvalidCiphertext();
    }
    default:
      throw new UnknownOperation();
  }
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  let answered;
  try {
    answered = answer(JSON.parse(line));
  } catch (error) {
    // The name alone: a message could hold a key.
    answered = { error: error.constructor.name };
  }
  process.stdout.write(`${JSON.stringify(answered)}\n`);
});
