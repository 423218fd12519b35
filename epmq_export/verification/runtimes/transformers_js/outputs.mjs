// The embeddings of texts by transformers.js, as its users compute them, in Node or in a browser.

const BATCH = 32;

// Return the embeddings as a Float32Array, [texts, width] row by row. `library` is the package
// @huggingface/transformers, and `request` has:
//
//   root, name   the folder of the model is root/name
//   texts
//   options      for the call: pooling and normalize
//   exact        whether 4-bit layers multiply in float32
//   device       what computes, in a browser: wasm or webgpu
export async function outputs(library, request) {
  const { env, pipeline } = library;
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = request.root;
  const level = { session: { qdq_matmulnbits_accuracy_level: "0" } };
  const settings = request.exact ? { session_options: { extra: level } } : {};
  if (request.device) settings.device = request.device;
  const extract = await pipeline("feature-extraction", request.name, settings);
  const parts = [];
  for (let start = 0; start < request.texts.length; start += BATCH) {
    const found = await extract(request.texts.slice(start, start + BATCH), request.options);
    parts.push(Float32Array.from(found.data));
  }
  const all = new Float32Array(parts.reduce((count, part) => count + part.length, 0));
  let end = 0;
  for (const part of parts) {
    all.set(part, end);
    end += part.length;
  }
  return all;
}
