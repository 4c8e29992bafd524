// The live page's requests to its server.

async function post(address, content, signal) {
  const headers = { "Content-Type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(content), signal };
  const response = await fetch(address, request).catch((error) => {
    throw signal.aborted ? error : new Error("The server does not answer. Start the command again.");
  });
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

// The JSON objects of an answer, one a line, as they arrive.
async function* linesOf(response) {
  const pieces = []; // of a line that has not ended
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const [end, ...starts] = text.split("\n");
    pieces.push(end);
    for (const start of starts) {
      const part = JSON.parse(pieces.splice(0, Infinity, start).join(""));
      if (part.error) throw new Error(part.error);
      yield part;
    }
  }
}

// A kind of request of which only the newest matters. A newer one breaks off the one before, so the server does not
// compute it any further. `use` gets each part of the answer, `fail` the message of an error.
export function newest(address, use, fail) {
  let running = new AbortController();
  const ask = async (content) => {
    running.abort();
    running = new AbortController();
    const { signal } = running;
    try {
      for await (const part of linesOf(await post(address, content, signal))) {
        if (signal.aborted) return;
        use(part);
      }
    } catch (error) {
      if (!signal.aborted) fail(error.message);
    }
  };
  return Object.assign(ask, { cancel: () => running.abort() });
}
