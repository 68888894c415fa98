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

/** Nonce, ciphertext and tag in base64, or `nonce:tag:ciphertext` in hexadecimal. */
function written(bytes, form) {
  if (form !== "hex") return bytes.toString("base64");
  const parts = [bytes.subarray(0, NONCE), bytes.subarray(-TAG), bytes.subarray(NONCE, -TAG)];
  return parts.map((part) => part.toString("hex")).join(":");
}

function read(text, form) {
  if (form !== "hex") return decoded(text, InvalidCiphertext);
  const [nonce, tag, ciphertext] = text.split(":").map((part) => Buffer.from(part, "hex"));
  const bytes = Buffer.concat([nonce, ciphertext, tag]);
  if (written(bytes, form) !== text) throw new InvalidCiphertext();
  return bytes;
}

function encrypt(secret, plaintext, aad) {
  const nonce = crypto.randomBytes(NONCE);
  const cipher = crypto.createCipheriv("aes-256-gcm", secret, nonce, { authTagLength: TAG });
  cipher.setAAD(aad);
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

/** Nothing when the key does not open it. */
function decrypt(secret, ciphertext, aad) {
  const nonce = ciphertext.subarray(0, NONCE);
  const decipher = crypto.createDecipheriv("aes-256-gcm", secret, nonce, { authTagLength: TAG });
  decipher.setAuthTag(ciphertext.subarray(-TAG));
  decipher.setAAD(aad);
  const plaintext = decipher.update(ciphertext.subarray(NONCE, -TAG));
  try {
    return Buffer.concat([plaintext, decipher.final()]);
  } catch {
    return undefined;
  }
}

function answer(request) {
  const aad = decoded(request.aad ?? "", InvalidPlaintext);
  switch (request.op) {
    case "encrypt": {
      const plaintext = decoded(request.plaintext, InvalidPlaintext);
      return { ciphertext: written(encrypt(key(request.key), plaintext, aad), request.form) };
    }
    case "decrypt": {
      const ciphertext = read(request.ciphertext, request.form);
      if (ciphertext.length < NONCE + TAG) throw new InvalidCiphertext();
      for (const secret of request.keys.map(key)) {
        const plaintext = decrypt(secret, ciphertext, aad);
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
