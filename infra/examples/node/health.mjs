// The verify URL and the refresh URL. A rotation asks both: TARGET_VERIFY_URL, TARGET_REFRESH_URL.
import { createServer } from "node:http";

/** `loadKeyrings` answers the keyrings of AWSCURRENT and, if it exists, of AWSPENDING. */
export async function admin(tokens, loadKeyrings, instance) {
  let keyrings = await loadKeyrings();
  await tokens.load();

  async function answer(request) {
    if (!tokens.accepts(request.headers["x-admin-token"] ?? "")) return [401, {}];
    if (request.method === "POST") { // /admin/refresh
      await tokens.load();
      keyrings = await loadKeyrings();
      return [200, {}]; // after the reload, not before it
    }
    // /admin/health
    const primary = keyrings.slice(0, 1).map((keyring) => keyring.primary);
    return [200, { key_ids: keyrings.flatMap((keyring) => keyring.ids), primary_key_ids: primary }];
  }

  return createServer(async (request, response) => {
    const [status, body] = await answer(request).catch(() => [500, {}]);
    response.writeHead(status, { "x-instance-id": instance, "content-type": "application/json" });
    response.end(JSON.stringify(body));
  });
}
