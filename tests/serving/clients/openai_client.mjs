// npm's `openai` asks for everything; prints what it was told, in the words of test_openai.py.
import { createRequire } from "node:module";

const { OpenAI } = createRequire(process.env.NODE_HOME + "/")("openai");
const { SERVER: baseURL, BUSY_SERVER: busyURL } = process.env;
const client = new OpenAI({ baseURL, maxRetries: 0 });
const chat = client.chat.completions;
const complete = (more) =>
  client.completions.create({ model: "head", prompt: "Where is", max_tokens: 4, ...more });
const asked = { model: "head", messages: [{ role: "user", content: "Where is C?" }] };
const ask = async (more) => (await chat.create({ ...asked, ...more })).choices;
const told = {};

const usage = ({ usage: u }) => [u.prompt_tokens, u.completion_tokens, u.total_tokens];
const all = async (many) => {
  const found = [];
  for await (const one of many) found.push(one);
  return found;
};
const refusal = async (attempt) => {
  try {
    await attempt();
  } catch (error) {
    return [error.constructor.name, error.status, error.code, error.param];
  }
  return null;
};

told.models = (await all(client.models.list())).map((model) => model.id);
told.root = (await client.models.retrieve("head")).root;

const whole = await chat.create({ ...asked, max_tokens: 20 });
const { message, finish_reason } = whole.choices[0];
told.answer = [message.content, finish_reason, ...usage(whole)];
const counting = { stream: true, stream_options: { include_usage: true } };
const chunks = await all(await chat.create({ ...asked, ...counting }));
const said = chunks.flatMap((chunk) => chunk.choices);
told.stream = [
  said.map((choice) => choice.delta.content ?? "").join(""),
  ...said.map((choice) => choice.finish_reason).filter(Boolean),
  ...usage(chunks.at(-1)),
];
told.helped = await chat.stream(asked).finalContent();

const [scored] = await ask({ logprobs: true, top_logprobs: 2 });
told.logprobs = scored.logprobs.content.map((step) => [
  step.token,
  step.logprob,
  step.top_logprobs.map((other) => other.token),
]);
const drawn = { temperature: 2, n: 3, seed: 7, max_tokens: 20 };
told.drawn = [];
for (let i = 0; i < 2; i++)
  told.drawn.push((await ask(drawn)).map((choice) => choice.message.content));
told.stopped = (await ask({ stop: [" 3"] }))[0].message.content;
const turns = [...asked.messages, message, { role: "user", content: "Where is A?" }];
told.talked = (await ask({ messages: turns, max_tokens: 5 }))[0].finish_reason;
const schema = {
  type: "object",
  properties: { right: { type: "boolean" } },
  required: ["right"],
  additionalProperties: false,
};
const response_format = { type: "json_schema", json_schema: { name: "Flag", strict: true, schema } };
const held = await chat.parse({ ...asked, response_format, max_tokens: 300 });
told.parsed = held.choices[0].message.parsed;
const [json] = await ask({ response_format: { type: "json_object" }, max_tokens: 5 });
told.json = json.message.content[0];

const echoed = await complete({ echo: true, logprobs: 1 });
const { text, logprobs } = echoed.choices[0];
told.echoed = [text, logprobs.tokens, logprobs.token_logprobs, ...usage(echoed)];
told.completed = (await complete({})).choices[0].text;
const pieces = await all(await complete({ stream: true }));
told.streamed = pieces.map((piece) => piece.choices[0].text).join("");
told.two = (await complete({ prompt: ["Where is", "Where"] })).choices.map((one) => one.text);
told.counted = (await complete({ prompt: [58, 75, 72, 85, 72, 223, 76, 86] })).usage.prompt_tokens;

const stranger = new OpenAI({ baseURL, apiKey: "another", maxRetries: 0 });
told.refused = {
  "unknown model": await refusal(() => ask({ model: "gpt-4" })),
  "unknown card": await refusal(() => client.models.retrieve("gpt-4")),
  "bad value": await refusal(() => ask({ temperature: 9 })),
  "unknown field": await refusal(() => ask({ reasoning_effort: "low" })),
  embeddings: await refusal(() => client.embeddings.create({ model: "head", input: "x" })),
  "too long": await refusal(() => complete({ prompt: "x".repeat(3000) })),
  "no token": await refusal(() => stranger.models.list()),
};

const endless = { logit_bias: { 0: -100, 2: -100 }, max_tokens: 1900, stream: true };
const [hasty, patient] = [0, 99].map(
  (maxRetries) => new OpenAI({ baseURL: busyURL, maxRetries }).chat.completions,
);
for await (const _ of await hasty.create({ ...asked, ...endless })) {
  told.refused.busy = await refusal(() => hasty.create(asked));
  told.patient = (await patient.create(asked)).choices[0].message.content;
  break;
}
console.log(JSON.stringify(told));
