// Runs the handler of a module: one event a line in, one answer a line out.
import { createInterface } from "node:readline";

const { handler } = await import(process.argv[2]);
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { answer: await handler(JSON.parse(line)) };
  } catch (error) {
    answer = { threw: error.name, why: error.message };
  }
  console.log(JSON.stringify(answer));
}
