// The keyrings of infra/examples/node: one JSON request per line in, one JSON answer per line out.
import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const { Keyring } = await import(`${process.argv[2]}/keyring_${request.format}.mjs`);
  const ring = new Keyring(JSON.parse(request.secret), request.member);
  const plaintexts = request.stored.map((stored) => ring.decrypt(stored)?.toString() ?? null);
  console.log(JSON.stringify({ ids: ring.ids, primary: ring.primary, plaintexts }));
}
