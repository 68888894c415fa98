// Accepts three tokens: current, pending, and previous until its time. For a JSON secret, with the
// Secrets Manager Agent (https://github.com/aws/aws-secretsmanager-agent), so that no package is needed.
import { createHash, timingSafeEqual } from "node:crypto";

const AGENT = process.env.AGENT_URL ?? "http://localhost:2773";

/** The members of a version; undefined if no version has the label, or the version has no value yet. */
export async function read(secretId, stage) {
  const query = new URLSearchParams({ secretId, versionStage: stage, refreshNow: "true" });
  const headers = { "X-Aws-Parameters-Secrets-Token": process.env.AWS_TOKEN ?? "" };
  const answer = await fetch(`${AGENT}/secretsmanager/get?${query}`, { headers });
  const body = await answer.text();
  if (answer.ok) return JSON.parse(JSON.parse(body).SecretString);
  if (body.includes("ResourceNotFoundException")) return undefined;
  throw new Error(`the agent answers ${answer.status} for ${stage} of ${secretId}`);
}

const digest = (text) => createHash("sha256").update(text).digest();
const equal = (one, other) => timingSafeEqual(digest(one), digest(other));

export class Tokens {
  constructor(secretId, member) {
    Object.assign(this, { secretId, member });
  }

  /** Call it at start, on a refresh, and every few minutes. When a read fails, the old values stay. */
  async load() {
    const stages = ["AWSCURRENT", "AWSPENDING"].map((stage) => read(this.secretId, stage));
    [this.current, this.pending] = await Promise.all(stages);
  }

  accepts(token) {
    const accepted = [this.current[this.member]];
    if (this.pending) accepted.push(this.pending[this.member]);
    const until = this.current[`${this.member}_PREVIOUS_UNTIL`];
    if (until && Date.now() < Date.parse(until)) accepted.push(this.current[`${this.member}_PREVIOUS`]);
    return accepted.map((one) => equal(one, token)).includes(true);
  }
}
