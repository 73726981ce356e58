// Where pictures come from: files, and the camera. Their pixels stay on this device.

const MOST_PIXELS = 4_000_000; // that a canvas gives at once: phones refuse large canvases
const SIZE = { width: { ideal: 640 }, height: { ideal: 480 } };
const REFUSALS = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser's settings, then try again.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera did not start; another program may use it.",
};

const canvas = document.createElement("canvas");

// Decodes a picture file: upright, which is the default of browsers, and without conversion of its colours, as in training.
export async function decode(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("This browser cannot read this file as a picture.");
  }
}

// Returns the pixels of an image or of a frame of a video, over white where it is transparent: { data: RGBA, width, height }.
export function pixelsOf(image, width, height) {
  const rows = Math.min(height, Math.max(1, Math.floor(MOST_PIXELS / width)));
  if (canvas.width !== width || canvas.height !== rows) Object.assign(canvas, { width, height: rows });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const part = (top) => {
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(image, 0, -top);
    return context.getImageData(0, 0, width, Math.min(rows, height - top)).data;
  };
  if (rows === height) return { data: part(0), width, height };
  const data = new Uint8ClampedArray(4 * width * height);
  for (let top = 0; top < height; top += rows) data.set(part(top), 4 * width * top);
  return { data, width, height };
}

// Why this page cannot use a camera, or null.
export function whyNoCamera() {
  if (!isSecureContext) return "The camera needs HTTPS: open the https:// link of the server, or use localhost.";
  return navigator.mediaDevices?.getUserMedia ? null : "This browser gives pages no camera.";
}

// A camera, by default the one at the back of a phone; `ended` is called when it stops by itself.
export class Camera {
  #stream;

  constructor(video) {
    this.video = video;
  }

  async open(id, ended) {
    const which = id === null ? { facingMode: "environment" } : { deviceId: { exact: id } };
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { ...SIZE, ...which }, audio: false });
    } catch (error) {
      throw new Error(REFUSALS[error.name] ?? `The camera did not start: ${error.message}`);
    }
    this.#track.onended = ended;
    this.video.srcObject = this.#stream;
    await this.video.play();
  }

  get #track() {
    return this.#stream.getVideoTracks()[0];
  }

  // The id of the next camera, or null if there is no other.
  async next() {
    const all = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
    const place = all.findIndex((device) => device.deviceId === this.#track.getSettings().deviceId);
    return all.length > 1 ? all[(place + 1) % all.length].deviceId : null;
  }

  get frameRate() {
    return this.#track.getSettings().frameRate ?? null;
  }

  // Waits for the next frame and returns its pixels, and the milliseconds that reading them took.
  async frame() {
    const { video } = this;
    await new Promise((resolve) => (video.requestVideoFrameCallback ? video.requestVideoFrameCallback(resolve) : requestAnimationFrame(resolve)));
    const begin = performance.now();
    const picture = pixelsOf(video, video.videoWidth, video.videoHeight);
    return { picture, ms: performance.now() - begin, image: canvas };
  }

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }
}
