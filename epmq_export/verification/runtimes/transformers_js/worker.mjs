// transformers.js in Node, in a process of its own.
//
//     node worker.mjs REQUEST
//
// REQUEST is a JSON file: what outputs.mjs says, `library`, the file of the package, and `result`, the file to
// write: float32, row by row, without a header. Errors go to stderr.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

import { outputs } from "./outputs.mjs";

try {
  const request = JSON.parse(readFileSync(process.argv[2], "utf-8"));
  const library = createRequire(import.meta.url)(request.library);
  const found = await outputs(library, request);
  writeFileSync(request.result, new Uint8Array(found.buffer));
} catch (error) {
  console.error(`error: ${String(error?.message ?? error).replace(/\s+/g, " ")}`);
  process.exit(1);
}
