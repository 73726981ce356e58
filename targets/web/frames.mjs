// Answers pictures and texts with a loaded model, in its worker: preprocessing, network and postprocessing, each timed.

import { answerOf } from "./answers.mjs";
import { prepare } from "./picture.mjs";

// Returns the answer for a picture { data: RGBA, width, height }, and the milliseconds of the three steps.
export async function answerPicture({ ort, session }, contract, picture) {
  const begin = performance.now();
  const { data, shape } = prepare(picture, contract.picture);
  const prepared = performance.now();
  const outputs = await session.run({ [contract.input]: new ort.Tensor(contract.picture.dtype, data, shape) });
  const inferred = performance.now();
  const answer = answerOf(outputs, contract, picture);
  const done = performance.now();
  return { answer, ms: { preprocessing: prepared - begin, network: inferred - prepared, postprocessing: done - inferred } };
}

// Returns the answer for a text or a pair of texts, the number of tokens, and the milliseconds of the three steps.
export async function answerTexts({ ort, session }, contract, tokenize, texts) {
  const begin = performance.now();
  const inputs = Object.entries(tokenize(texts)).map(([name, data]) => [name, new ort.Tensor("int64", data, [1, data.length])]);
  const prepared = performance.now();
  const outputs = await session.run(Object.fromEntries(inputs));
  const inferred = performance.now();
  const answer = answerOf(outputs, contract, null);
  const done = performance.now();
  const ms = { preprocessing: prepared - begin, network: inferred - prepared, postprocessing: done - inferred };
  return { answer, tokens: inputs[0][1].dims[1], ms };
}
