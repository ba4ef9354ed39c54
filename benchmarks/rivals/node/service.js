// The straightforward service in Node.js: MQTT in, tokenizer, the same graph, publish.
//
// ONNX Runtime with its default threads, batch 1, QoS 1. Usage:
//   node service.js --port N --into TOPIC --out TOPIC --bundle DIR

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { Tokenizer } from "@huggingface/tokenizers";
import mqtt from "mqtt";
import ort from "onnxruntime-node";

const MAX_TOKENS = 128;

const { values: args } = parseArgs({
  options: {
    port: { type: "string" },
    into: { type: "string" },
    out: { type: "string" },
    bundle: { type: "string" },
  },
});

const readJson = (...path) => JSON.parse(readFileSync(join(args.bundle, ...path), "utf8"));
const graph = readJson("manifest.json").artifacts.find(({ role }) => role === "graph");
const tokenizer = new Tokenizer(readJson("tokenizer.json"), {});
const session = await ort.InferenceSession.create(join(args.bundle, graph.path));
const output = session.outputNames[0];

const tensor = (numbers) =>
  new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]);

function encode(text) {
  const { ids, attention_mask, token_type_ids } = tokenizer.encode(text, {
    return_token_type_ids: true,
  });
  if (ids.length > MAX_TOKENS) {
    // As the tokenizers of other languages truncate: the last token stays, it ends the text.
    ids.splice(MAX_TOKENS - 1, ids.length - MAX_TOKENS);
  }
  const columns = { input_ids: ids, attention_mask, token_type_ids };
  return Object.fromEntries(
    session.inputNames.map((name) => [name, tensor(columns[name].slice(0, MAX_TOKENS))]),
  );
}

async function answer(text) {
  const row = (await session.run(encode(text), [output]))[output];
  if (row.dims.length === 1) {
    return { score: row.data[0] };
  }
  let label = 0;
  for (let i = 1; i < row.data.length; i++) {
    if (row.data[i] > row.data[label]) label = i;
  }
  let odds = 0;
  for (const logit of row.data) odds += Math.exp(logit - row.data[label]);
  return { label, confidence: 1 / odds };
}

const client = mqtt.connect({ host: "127.0.0.1", port: Number(args.port) });
client.on("connect", () => client.subscribe(args.into, { qos: 1 }));
client.on("message", async (_topic, payload) => {
  const result = await answer(payload.toString("utf8"));
  client.publish(args.out, JSON.stringify(result), { qos: 1 });
});
