// Compares a model's outputs on this device with the recorded ones. The page shows this result before it sends anything; the
// measurement contains the server's result, from targets/harness/check.py.

const TYPES = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, int8: Int8Array,
};

export function typed(dtype, buffer, offset, length) {
  const type = TYPES[dtype];
  return new type(buffer, offset, length / type.BYTES_PER_ELEMENT);
}

// Compares every recorded output. `agreement` is the smallest: of the output that the metric reads the share of equal top-1 answers,
// of the others 1 - squared error / variance. It is null for metrics that only the server computes, and where no output varies.
export function parity({ requests, metric, output }, content, outputs) {
  const judged = (output ?? requests.outputs[0].name).split("+");
  let largest = 0;
  let smallest = null;
  for (const block of requests.outputs) {
    const bytes = outputs[block.name];
    const got = Array.from(typed(block.dtype, bytes.buffer, bytes.byteOffset, bytes.byteLength), Number);
    const wanted = Array.from(typed(block.dtype, content, block.offset, block.bytes), Number);
    const most = difference(got, wanted);
    largest = Math.max(largest, most);
    const agreement = judged.includes(block.name) ? sameAnswer(got, wanted, requests.count) : fidelity(got, wanted);
    const known = varies(wanted, requests.count) ? agreement : reproduced(wanted, most);
    if (known !== null) smallest = Math.min(smallest ?? 1, known);
  }
  return { max_abs_diff: largest, agreement: metric === "top1" ? smallest : null };
}

function difference(got, wanted) {
  let largest = 0;
  for (let i = 0; i < got.length; i++) {
    const found = Math.abs(got[i] - wanted[i]);
    if (found > largest) largest = found;
    if (Number.isNaN(found) && !Object.is(got[i], wanted[i])) largest = Infinity;
  }
  return largest;
}

function sameAnswer(got, wanted, count) {
  const size = wanted.length / count;
  const best = (values, i) => {
    let at = i * size;
    for (let k = at; k < (i + 1) * size; k++) if (values[k] > values[at]) at = k;
    return at;
  };
  let equal = 0;
  for (let i = 0; i < count; i++) equal += best(got, i) === best(wanted, i);
  return equal / count;
}

function fidelity(got, wanted) {
  const mean = wanted.reduce((sum, value) => sum + value, 0) / wanted.length;
  let error = 0;
  let variance = 0;
  for (let i = 0; i < wanted.length; i++) {
    error += (got[i] - wanted[i]) ** 2;
    variance += (wanted[i] - mean) ** 2;
  }
  return variance > 0 ? 1 - error / variance : 0;
}

// Whether an output differs between requests by more than rounding.
function varies(wanted, count) {
  const size = wanted.length / count;
  return wanted.some((value, i) => !(Math.abs(value - wanted[i % size]) <= 1e-6 + 2e-6 * Math.abs(value)));
}

// An output that is the same for all requests has no agreement: null if it is reproduced within 1 % or 0.01, and 0 otherwise.
function reproduced(wanted, difference) {
  const magnitude = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  return difference <= 0.01 * magnitude ? null : 0;
}
