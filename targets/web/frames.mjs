// Answers pictures with a loaded model, in its worker: preprocessing, network and postprocessing, each timed.

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
