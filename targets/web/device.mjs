// Facts that this browser reports about itself and its device.

const ID = "edgedistill.device";
const NAME = "edgedistill.name";
const MEASURED = "edgedistill.measured.";

// A random id that the browser stores, so that the device is recognised later; the id says nothing about the owner.
export function deviceId() {
  let id = read(ID);
  if (!/^[0-9a-f]{32}$/.test(id ?? "")) {
    id = randomId();
    write(ID, id);
  }
  return id;
}

export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function savedName() {
  return read(NAME);
}

export function saveName(name) {
  write(NAME, name);
}

// Whether this browser has measured a model, by the hash of its file.
export function hasMeasured(sha256) {
  return read(`${MEASURED}${sha256}`) !== null;
}

export function noteMeasured(sha256) {
  write(`${MEASURED}${sha256}`, "1");
}

function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // storage may be blocked; then every visit counts as a new device
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // as above
  }
}

export async function describe() {
  const hints = await highEntropy();
  const gpu = await adapter();
  return {
    platform: hints.platform ?? platformIn(navigator.userAgent),
    arch: hints.architecture ?? "not told",
    browser: browserIn(navigator.userAgent),
    model: hints.model ?? "",
    cores: navigator.hardwareConcurrency || 1,
    memory_bytes: navigator.deviceMemory ? Math.round(navigator.deviceMemory * 2 ** 30) : null,
    secure: isSecureContext,
    isolated: self.crossOriginIsolated === true,
    shared_memory: typeof SharedArrayBuffer !== "undefined",
    gpu,
  };
}

async function highEntropy() {
  try {
    const asked = ["architecture", "bitness", "model", "platform", "platformVersion"];
    const hints = await navigator.userAgentData.getHighEntropyValues(asked);
    return {
      platform: `${hints.platform} ${hints.platformVersion}`.trim() || undefined,
      architecture: hints.architecture ? `${hints.architecture} ${hints.bitness} bit` : undefined,
      model: hints.model,
    };
  } catch {
    return {}; // Firefox, Safari, and plain HTTP
  }
}

async function adapter() {
  try {
    const found = await navigator.gpu.requestAdapter();
    if (!found) return null;
    const { vendor, architecture, device, description } = found.info;
    return [vendor, architecture, device, description].filter(Boolean).join(" ") || "not told";
  } catch {
    return null;
  }
}

function platformIn(agent) {
  const found = /\(([^)]*)\)/.exec(agent);
  return found ? found[1].split(";").slice(0, 2).join(";").trim() : "not told";
}

function browserIn(agent) {
  const known = [/Edg(?:A|iOS)?\/(\d+)/, /SamsungBrowser\/(\d+)/, /Firefox\/(\d+)/, /FxiOS\/(\d+)/, /CriOS\/(\d+)/, /Chrome\/(\d+)/, /Version\/(\d+).*Safari/];
  const names = ["Edge", "Samsung Internet", "Firefox", "Firefox", "Chrome", "Chrome", "Safari"];
  for (const [i, pattern] of known.entries()) {
    const found = pattern.exec(agent);
    if (found) return `${names[i]} ${found[1]}`;
  }
  return "unknown browser";
}

export function suggestedName(about) {
  const device = about.model || about.platform.split(/[ ;]/)[0] || "device";
  return `${device} ${about.browser.replace(/ \d+$/, "")}`.slice(0, 60);
}
