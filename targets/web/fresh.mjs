// A fresh worker, which answers one message at a time.

const STALLED_MS = 120_000; // a slow phone needs long to compile a large model, without any message

export class Stalled extends Error {}

export class Fresh {
  #worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
  #failure = null;
  #reject = null;

  constructor() {
    this.#worker.onerror = (event) => this.#fail(new Error(event.message || "the worker could not be started"));
  }

  // Sends a message and returns the answer. A worker without a message for two minutes has failed without an error event.
  ask(message, onProgress = () => {}, transfer = []) {
    let timer;
    return new Promise((resolve, reject) => {
      if (this.#failure) throw this.#failure;
      this.#reject = reject;
      const wait = () => {
        clearTimeout(timer);
        const error = new Stalled(`the worker did not respond for ${STALLED_MS / 1000} s; the device may be out of memory`);
        timer = setTimeout(() => reject(error), STALLED_MS);
      };
      wait();
      this.#worker.onmessage = ({ data }) => {
        wait();
        if (data.progress) onProgress(data.progress);
        else if (data.error) reject(new Error(data.error));
        else resolve(data);
      };
      this.#worker.postMessage(message, transfer);
    }).finally(() => clearTimeout(timer));
  }

  end(error = new Error("the worker was ended")) {
    this.#worker.terminate();
    this.#fail(error);
  }

  #fail(error) {
    this.#failure = error;
    this.#reject?.(error);
  }
}
