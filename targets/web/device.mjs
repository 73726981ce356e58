// What this browser says of itself and of its device.

const ID = "edgedistill.device";
const NAME = "edgedistill.name";

// A random id that the browser keeps, so that a device is known again; it says nothing about its owner.
export function deviceId() {
  let id = read(ID);
  if (!/^[0-9a-f]{32}$/.test(id ?? "")) {
    id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    write(ID, id);
  }
  return id;
}

export function savedName() {
  return read(NAME);
}

export function saveName(name) {
  write(NAME, name);
}

function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // storage may be forbidden; then the device is a new one each time
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
  const told = await highEntropy();
  const gpu = await adapter();
  return {
    platform: told.platform ?? platformIn(navigator.userAgent),
    arch: told.architecture ?? "not told",
    browser: browserIn(navigator.userAgent),
    model: told.model ?? "",
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
    const told = await navigator.userAgentData.getHighEntropyValues(asked);
    return {
      platform: `${told.platform} ${told.platformVersion}`.trim() || undefined,
      architecture: told.architecture ? `${told.architecture} ${told.bitness} bit` : undefined,
      model: told.model,
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
