// Sends requests over all addresses of a cell by @grpc/grpc-js: one JSON line a call, with its status and how long it took.
// Arguments: target, service config, method; on stdin the requests, in base64, one a line.
const { Client, Metadata, credentials, status } = require("@grpc/grpc-js");
const { readFileSync } = require("node:fs");

const [target, serviceConfig, method] = process.argv.slice(2);
const requests = readFileSync(0, "utf8").split("\n").filter(Boolean);
// No call is to need a retry.
const client = new Client(target, credentials.createInsecure(), {
  "grpc.service_config": serviceConfig,
  "grpc.enable_retries": 0,
});
const metadata = new Metadata();
metadata.set("cellbook-principal", "treasury/test");
const bytes = (value) => value;

const called = (request) =>
  new Promise((resolve) => {
    const beganMs = performance.now();
    const options = { deadline: Date.now() + 10_000 };
    const told = (error) =>
      resolve({ code: status[error?.code ?? 0], text: error?.details ?? "", ms: performance.now() - beganMs });
    client.makeUnaryRequest(method, bytes, bytes, Buffer.from(request, "base64"), metadata, options, told);
  });

(async () => {
  for (const request of requests) console.log(JSON.stringify(await called(request)));
  client.close();
})();
