// Turns texts into a model's inputs as its contract says, with Hugging Face's tokenizers in JavaScript; the reference is targets/harness/text.py.

const TYPES = "token_type_ids";
const MASK = "attention_mask";
// Ideographs beyond 16 bits: the library takes them for parts of words, and puts no spaces around them as BERT's normalizer does.
const IDEOGRAPHS = /[\u{20000}-\u{2A6DF}\u{2A700}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{2F800}-\u{2FA1F}]/gu;

// Returns a function from the texts of a sample, one or two, to its inputs by name, each a BigInt64Array.
export function tokenizerOf({ Tokenizer }, json, rules) {
  const tokenizer = new Tokenizer(json, {});
  const prepare = preparation(json.normalizer);
  const unknown = tokenizer.token_to_id(json.model.unk_token);
  const finish = (parts) => tokenizer.post_processor?.(parts[0], parts[1] ?? null, true) ?? plain(parts);
  const room = rules.max_length - finish(Array.from({ length: rules.texts }, () => [])).tokens.length;
  return (texts) => {
    if (texts.length !== rules.texts) throw new Error(`the model takes ${rules.texts} text(s) at once, not ${texts.length}`);
    const { tokens, token_type_ids: types } = finish(cut(texts.map((text) => tokenizer.tokenize(prepare(text))), room));
    const values = (name) => (name === MASK ? tokens.map(() => 1) : name === TYPES ? types : tokens.map((token) => tokenizer.token_to_id(token) ?? unknown));
    return Object.fromEntries(rules.inputs.map((name) => [name, BigInt64Array.from(values(name), BigInt)]));
  };
}

const plain = (parts) => ({ tokens: parts.flat(), token_type_ids: parts.flatMap((part, i) => part.map(() => i)) });

// Returns tokens cut at their end to `room` tokens, of a pair the longer text first ("longest_first" of the library in Rust).
function cut(parts, room) {
  if (parts.length < 2) return parts.map((part) => part.slice(0, room));
  if (parts[0].length + parts[1].length <= room) return parts;
  const shorter = parts[0].length <= parts[1].length ? 0 : 1;
  const kept = Math.min(parts[shorter].length, Math.floor(room / 2));
  return parts.map((part, i) => part.slice(0, i === shorter ? kept : room - kept));
}

// What BERT's normalizer does in Rust and the library does not: it handles characters one by one, so that a capital sigma at the end of a
// word does not become the final small one.
function preparation(normalizer) {
  if (normalizer?.type !== "BertNormalizer") return (text) => text;
  return (text) => {
    const spaced = normalizer.handle_chinese_chars ? text.replace(IDEOGRAPHS, " $& ") : text;
    return normalizer.lowercase ? spaced.replaceAll("Σ", "σ") : spaced;
  };
}
