// Opens a page with the Web SDK in Chromium and plays the calls of a journey.
// Usage: node journey.mjs '{"executable", "profile", "page", "identity", "calls": [[name, identities], ...]}'
// Prints {"results": [...], "requests": [{"path", "key", "body"}, ...]}.
import { chromium } from "playwright-core";

const CALL_MS = 20000;
const { executable, profile, page: url, identity, calls } = JSON.parse(process.argv[2]);

const options = {
  executablePath: executable,
  headless: true,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // Nothing but this machine can be reached.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  ],
};
const launch = () => chromium.launchPersistentContext(profile, options);
const browser = await launch().catch(launch); // once more: nothing was sent by then

const within = (promise, what) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} was never answered`)), CALL_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

try {
  const page = await browser.newPage();
  const requests = [];
  page.on("request", (request) => {
    if (request.method() === "POST" && request.url().startsWith(identity)) {
      requests.push({
        path: new URL(request.url()).pathname,
        key: request.headers()["x-mp-key"],
        body: JSON.parse(request.postData()),
      });
    }
  });
  await page.goto(url, { timeout: CALL_MS });
  const results = [];
  for (const [name, identities] of calls) {
    results.push(await within(page.evaluate(([n, i]) => window.play(n, i), [name, identities]), name));
  }
  console.log(JSON.stringify({ results, requests }));
} finally {
  await browser.close();
}
