// Downloads of the engine and of models.

export const RUNTIMES = {
  wasm: { bundle: "ort.wasm.bundle.min.mjs", engine: "ort-wasm-simd-threaded.wasm" },
  webgpu: { bundle: "ort.webgpu.bundle.min.mjs", engine: "ort-wasm-simd-threaded.asyncify.wasm" },
};
const engines = new Map();

// Returns the engine for a provider and a model of one operator. They are kept, because browsers cache nothing of a site with an
// untrusted certificate. `report` takes a text.
export async function engineFor(provider, signal, report) {
  if (!engines.has(provider)) {
    const onBytes = (length) => report(`downloads the engine, ${(length / 1e6).toFixed(1)} MB`);
    const engine = await fetchBytes(`runtime/${RUNTIMES[provider].engine}`, signal, onBytes);
    engines.set(provider, { engine, empty: new Uint8Array(await fetchBytes("null.onnx", signal)) });
  }
  return engines.get(provider);
}

export async function fetchBytes(url, signal, onBytes) {
  const answer = await fetch(url, { signal });
  if (!answer.ok) throw new Error(`${url}: the server answered ${answer.status}`);
  const reader = answer.body.getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
    onBytes?.(length);
  }
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole.buffer;
}

export async function fetchText(url) {
  return new TextDecoder().decode(await fetchBytes(url));
}
