// A function: handle() answers requests; the rest is an HTTP server that tells the daemon when it is ready.

const http = require("node:http");

async function handle(method, path, body) {
  console.log(method, path); // `unifaas logs` shows what is printed
  return { status: 200, text: `Hello from {name}: ${method} ${path}, ${body.length} bytes\n` };
}

const server = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const { status, text } = await handle(request.method, request.url, Buffer.concat(chunks));
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8" });
  response.end(text);
});

server.listen(Number(process.env.PORT), process.env.HOST, () => {
  http.get(process.env.CALLBACK_URL, (response) => response.resume());
});
