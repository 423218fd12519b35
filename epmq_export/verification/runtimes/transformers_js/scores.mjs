// The scores of tokens by a language model in transformers.js, as its users run one, and its answers.

// Give `write` the width of a row and then the rows, each Float32Array one or several: a row with the scores of
// the token after a text, one for each token of a passage's target, and the tokens of a question's answer, with
// -1 behind its end. `library` is the package @huggingface/transformers, and `request` has:
//
//   root, name   the folder of the model is root/name
//   samples      a text; [context, target] of a passage; {text, limit, ends} of a question
//   exact        whether 4-bit layers multiply in float32, and the last tokens are read one by one, as in the
//                generation of a text, so that a fault of the cache shows
//   one_by_one   how many last tokens that are
export async function scores(library, request, write) {
  const { env, AutoModelForCausalLM, AutoTokenizer } = library;
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = request.root;
  const level = { session: { qdq_matmulnbits_accuracy_level: "0" } };
  const settings = request.exact ? { session_options: { extra: level } } : {};
  const tokenizer = await AutoTokenizer.from_pretrained(request.name);
  const model = await AutoModelForCausalLM.from_pretrained(request.name, settings);
  let width = null;
  const put = (rows, found) => {
    if (width === null) write(Float32Array.of((width = found)));
    write(rows);
  };
  for (const sample of request.samples) {
    if (sample.limit !== undefined) {
      put(await answer(library, model, tokenizer.encode(sample.text), sample), sample.limit);
      continue;
    }
    let ids, first;
    if (Array.isArray(sample)) {
      const [context, target] = sample;
      ids = tokenizer.encode(context + target).slice(0, -1);
      // The tokens of a target are those after as many as the context alone has.
      first = Math.max(tokenizer.encode(context).length, 1) - 1;
    } else {
      ids = tokenizer.encode(sample);
      first = ids.length - 1;
    }
    if (first < 0 || first >= ids.length) throw new Error(`${JSON.stringify(sample)} has no tokens`);
    const { data, vocabulary } = await read(library, model, ids, request.exact ? request.one_by_one : 0);
    put(data.subarray(first * vocabulary), vocabulary);
  }
}

function whole(library, values) {
  return new library.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
}

// Return the scores behind each token, row by row: those of the last `late` tokens from a run for each of them.
async function read(library, model, ids, late) {
  const parts = [];
  let vocabulary, past;
  let begin = 0;
  for (let end = late > 0 ? Math.max(ids.length - late, 1) : ids.length; end <= ids.length; end++) {
    const found = await model({
      input_ids: whole(library, ids.slice(begin, end)),
      attention_mask: whole(library, new Array(end).fill(1)),
      ...(past ? { past_key_values: past } : {}),
    });
    vocabulary = found.logits.dims[2];
    parts.push(Float32Array.from(found.logits.data));
    const cached = Object.entries(found).filter(([name]) => name.startsWith("present"));
    past = new library.DynamicCache(
      Object.fromEntries(cached.map(([name, value]) => [name.replace("present", "past_key_values"), value])),
    );
    begin = end;
  }
  const data = new Float32Array(ids.length * vocabulary);
  let place = 0;
  for (const part of parts) {
    data.set(part, place);
    place += part.length;
  }
  return { data, vocabulary };
}

// Return the likeliest tokens one after the other, and -1 behind the end. What the folder says of the choice of
// tokens is left aside, since the reference's answers are the likeliest tokens, too.
async function answer(library, model, ids, { limit, ends }) {
  const found = await model.generate({
    input_ids: whole(library, ids),
    attention_mask: whole(library, new Array(ids.length).fill(1)),
    max_new_tokens: limit,
    do_sample: false,
    repetition_penalty: 1,
    eos_token_id: ends,
  });
  const row = new Float32Array(limit).fill(-1);
  const tokens = Array.from(found.data, Number).slice(ids.length);
  const last = tokens.findIndex((token) => ends.includes(token));
  row.set(last < 0 ? tokens : tokens.slice(0, last + 1));
  return row;
}
