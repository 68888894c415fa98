#!/usr/bin/env node
// Runs the handler in the file ISSUER in the sandbox. In Lambda, the runtime for Node does this.
import { createServer } from "node:http";
import { once } from "node:events";

const { AWS_ENDPOINT_URL, AWS_LAMBDA_RUNTIME_API, ISSUER } = process.env;
// In the place of the AWS Parameters and Secrets Lambda Extension. The sandbox wants no signature.
const extension = createServer(async ({ url }, response) => {
  const SecretId = new URL(url, AWS_ENDPOINT_URL).searchParams.get("secretId");
  const headers = { "x-amz-target": "secretsmanager.GetSecretValue", "content-type": "application/x-amz-json-1.1" };
  const answer = await fetch(AWS_ENDPOINT_URL, { method: "POST", headers, body: JSON.stringify({ SecretId }) });
  response.writeHead(answer.status).end(await answer.text());
}).listen(0, "127.0.0.1");
await once(extension, "listening");
process.env.EXTENSION_URL = `http://127.0.0.1:${extension.address().port}`;

const { handler } = await import(ISSUER);
const runtime = `http://${AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation`;
for (;;) {
  const next = await fetch(`${runtime}/next`);
  const id = next.headers.get("lambda-runtime-aws-request-id");
  let what = "response";
  let answer;
  try {
    answer = await handler(await next.json());
  } catch (error) {
    console.error(error); // As Lambda's runtime does, for the function's log.
    what = "error";
    answer = { errorType: error.name, errorMessage: error.message };
  }
  await fetch(`${runtime}/${id}/${what}`, { method: "POST", body: JSON.stringify(answer) });
}
