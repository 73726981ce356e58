// A model that answers pictures or texts in a worker, one after the other.

import { engineFor, fetchBytes, fetchText, RUNTIMES } from "./downloads.mjs";
import { Fresh } from "./fresh.mjs";

export class Live {
  #worker = new Fresh();
  #loaded;
  #last = Promise.resolve();

  // `model` is one of api/run; `place` is { provider, threads }; `report` takes a text.
  constructor(model, place, report) {
    this.model = model;
    this.failed = false;
    this.#loaded = this.#load(place, report);
    this.#loaded.catch(() => (this.failed = true)); // answer() reports it
  }

  async #load(place, report) {
    const downloads = await engineFor(place.provider, undefined, report);
    report("downloads the model");
    const file = await fetchBytes(`models/${this.model.key}.onnx`);
    const tokenizer = this.model.contract.text ? await fetchText("tokenizer.json") : null;
    report("loads the model");
    await this.#worker.ask({
      task: "live", model: file, contract: this.model.contract, tokenizer, requests: { count: 0, inputs: [], outputs: [] }, ...place, ...downloads,
      bundle: RUNTIMES[place.provider].bundle,
    });
    report("");
  }

  // Returns the answer for a picture, whose pixels are handed over, and the milliseconds of each step.
  answer({ data, width, height }) {
    return this.#ask({ data, width, height }, [data.buffer]);
  }

  // Returns the answer for a text or a pair of texts, the number of tokens, and the milliseconds of each step.
  answerTexts(texts) {
    return this.#ask({ texts }, []);
  }

  async #ask(message, transfer) {
    const before = this.#last;
    const mine = this.#loaded.then(() => before).then(() => this.#worker.ask(message, undefined, transfer));
    this.#last = mine.catch(() => {});
    return mine;
  }

  end() {
    this.#worker.end();
  }
}
