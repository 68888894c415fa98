// An issuer of client secrets, as oauth_issuer.py: rotation:fields = "CLIENT_SECRET CLIENT_SECRET_ID".
// It reads ADMIN_SECRET with the AWS Parameters and Secrets Lambda Extension, so that no package is needed.
const { PROVIDER_URL, CLIENT_ID, ADMIN_SECRET, AWS_SESSION_TOKEN = "" } = process.env;
const EXTENSION = process.env.EXTENSION_URL ?? "http://localhost:2773";
const SECRETS = `${PROVIDER_URL}/clients/${CLIENT_ID}/secrets`;

async function adminToken() {
  const headers = { "X-Aws-Parameters-Secrets-Token": AWS_SESSION_TOKEN };
  const answer = await fetch(`${EXTENSION}/secretsmanager/get?secretId=${encodeURIComponent(ADMIN_SECRET)}`, { headers });
  if (!answer.ok) throw new Error(`the extension answered ${answer.status}`);
  return (await answer.json()).SecretString;
}

/** The provider's answer; a status that is not expected throws. */
async function call(method, url, { body, authorization, expected = [] } = {}) {
  const headers = {
    authorization: authorization ?? `Bearer ${await adminToken()}`,
    "content-type": "application/json",
  };
  const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok && !expected.includes(answer.status)) throw new Error(`the provider answered ${answer.status}`);
  return { ok: answer.ok, body: JSON.parse((await answer.text()) || "null") };
}

async function remove(ids) {
  for (const id of ids) await call("DELETE", `${SECRETS}/${id}`, { expected: [404] });
  return { status: "gone" };
}

const operations = {
  // The label is how discard finds what was made for this version.
  async create({ version_id }) {
    const { body } = await call("POST", SECRETS, { body: { label: version_id } });
    return { members: { CLIENT_SECRET: body.secret, CLIENT_SECRET_ID: body.id } };
  },
  async verify({ members }) {
    const authorization = `Basic ${Buffer.from(`${CLIENT_ID}:${members.CLIENT_SECRET}`).toString("base64")}`;
    const { ok } = await call("POST", `${PROVIDER_URL}/token`, { body: {}, authorization, expected: [401] });
    return { status: ok ? "ok" : "refused" };
  },
  async revoke({ members }) {
    // "gone" would leave the credential alive without a trace.
    if (!members.CLIENT_SECRET_ID) throw new Error("CLIENT_SECRET_ID is missing");
    return remove([members.CLIENT_SECRET_ID]);
  },
  async discard({ version_id, keep }) {
    const kept = keep.map((members) => members.CLIENT_SECRET_ID);
    const { body } = await call("GET", SECRETS);
    return remove(body.filter(({ label, id }) => label === version_id && !kept.includes(id)).map(({ id }) => id));
  },
};

export async function handler(event) {
  if (event.version !== 1) throw new Error("another version of the contract");
  return { version: 1, ...(await operations[event.operation](event)) };
}
