// transformers.js in Node, in a process of its own.
//
//     node worker.mjs REQUEST
//
// REQUEST is a JSON file: what outputs.mjs says of a sentence encoder or scores.mjs of a language model,
// `library`, the file of the package, and `result`, the file to write: float32, row by row, without a header;
// of a language model the width of a row stands before them. Errors go to stderr.

import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";

import { outputs } from "./outputs.mjs";
import { scores } from "./scores.mjs";

try {
  const request = JSON.parse(readFileSync(process.argv[2], "utf-8"));
  const library = createRequire(import.meta.url)(request.library);
  const result = openSync(request.result, "w");
  const write = (values) => {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    for (let done = 0; done < bytes.length; ) done += writeSync(result, bytes, done);
  };
  if (request.samples === undefined) write(await outputs(library, request));
  else await scores(library, request, write);
  closeSync(result);
} catch (error) {
  console.error(`error: ${String(error?.message ?? error).replace(/\s+/g, " ")}`);
  process.exit(1);
}
