// Wires the parts: TOKEN_SECRET and, with keys, KEY_SECRET name the secrets; PORT is the port on 127.0.0.1.
import { admin } from "./health.mjs";
import { Tokens, read } from "./tokens.mjs";

const { TOKEN_SECRET, KEY_SECRET, KEY_FORMAT, INSTANCE_ID = "1", PORT } = process.env;

async function loadKeyrings() {
  if (!KEY_SECRET) return [];
  const { Keyring } = await import(`./keyring_${KEY_FORMAT}.mjs`);
  const stages = await Promise.all(["AWSCURRENT", "AWSPENDING"].map((stage) => read(KEY_SECRET, stage)));
  return stages.filter(Boolean).map((secret) => new Keyring(secret, "TOKEN_ENCRYPTION_KEY"));
}

const server = await admin(new Tokens(TOKEN_SECRET, "ADMIN_TOKEN"), loadKeyrings, INSTANCE_ID);
server.listen(Number(PORT), "127.0.0.1");
