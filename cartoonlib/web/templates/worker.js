// A worker of the page: ONNX Runtime, and the work that would make the page stand still. Its source is text in the page,
// after drawing.js and faces.js, because a page from file:// may load no worker from a file.
"use strict";

const sessions = new Map(); // network's name -> ONNX Runtime's session
let providers = [];

const tasks = {
  /** Start ONNX Runtime. script, glue: its sources; binary: its WebAssembly; gpu: whether WebGPU runs the networks. */
  async runtime({ script, glue, binary, gpu }) {
    const address = (text, type) => URL.createObjectURL(new Blob([text], { type }));
    importScripts(address(script, "text/javascript"));
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = 1; // more need a server that isolates the page; there are several workers instead
    ort.env.wasm.wasmBinary = binary;
    ort.env.wasm.wasmPaths = { mjs: address(glue, "text/javascript") };
    providers = gpu ? ["webgpu"] : ["wasm"];
  },

  /** Make a network ready. content: its ONNX model. The small ones of the faces stay on the processor. */
  async network({ name, content, small }) {
    const options = { executionProviders: small ? ["wasm"] : providers, graphOptimizationLevel: "all" };
    sessions.set(name, await ort.InferenceSession.create(content, options));
  },

  /** Width in px of the largest face of a photo, 0 without one. */
  face({ photo }) {
    return faceWidth(photo, run);
  },

  /** What the network looks at. */
  view({ photo, columns, rows }) {
    return viewOf(photo, columns, rows);
  },

  /** Slopes and intercepts of a tile's core. */
  async maps({ tile, core, style, filter }) {
    const guide = toPlanes(tile), { width, height } = tile;
    const [source] = await run(style, guide, [1, 3, height, width]);
    return mapsOf(guide, source.data, width, height, core, filter);
  },

  /** Rows of the cartoon. */
  applied,
};

/** Outputs of a network in their order, each {data, dims}. */
async function run(name, data, shape) {
  const session = sessions.get(name);
  const outputs = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", data, shape) });
  return session.outputNames.map(output => outputs[output]);
}

onmessage = async ({ data: { task, given } }) => {
  try {
    const result = await tasks[task](given);
    postMessage({ result }, result?.buffer ? [result.buffer] : []);
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};
