// Opens a page from a file in Chromium, and prints what happens as JSON: node open.mjs PAGE FOLDER
// FOLDER receives light.png, dark.png and page.pdf. The current folder is the one of the installed browser.
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const browserFolder = process.cwd();
const [page, folder] = process.argv.slice(2).map((path) => resolve(path));
const puppeteer = createRequire(join(browserFolder, "package.json"))("puppeteer-core");

const browser = await puppeteer.launch({
  executablePath: join(browserFolder, "chromium"),
  headless: "shell",
  // No port: the browser is driven through a pipe, and finds no host.
  pipe: true,
  args: ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"],
  env: {
    ...process.env,
    LD_LIBRARY_PATH: join(browserFolder, "al2023", "lib"),
    FONTCONFIG_PATH: join(browserFolder, "fonts"),
  },
});
try {
  const seen = await open(await browser.newPage());
  for (const scheme of ["light", "dark"]) {
    seen[scheme].image = await colours(seen[scheme].png);
    delete seen[scheme].png;
  }
  console.log(JSON.stringify({ browser: await browser.version(), ...seen }));
} finally {
  await browser.close();
}

async function open(tab) {
  const seen = { requests: [], messages: [], scripts: [] };
  tab.on("request", (request) => seen.requests.push(request.url()));
  tab.on("console", (message) => seen.messages.push(message.text()));
  tab.on("pageerror", (error) => seen.messages.push(String(error)));
  tab.on("dialog", (dialog) => {
    seen.messages.push(`a dialog: ${dialog.message()}`);
    return dialog.dismiss();
  });
  const debug = await tab.createCDPSession();
  // The page's own scripts; puppeteer's have an address that begins with pptr.
  debug.on("Debugger.scriptParsed", ({ url, executionContextAuxData }) => {
    if (executionContextAuxData?.isDefault && !url.startsWith("pptr:")) seen.scripts.push(url);
  });
  await debug.send("Debugger.enable");
  await tab.setViewport({ width: 1280, height: 900 });
  await tab.goto(pathToFileURL(page).href, { waitUntil: "networkidle0" });
  for (const scheme of ["light", "dark"]) {
    await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    const png = await tab.screenshot({ path: join(folder, `${scheme}.png`), fullPage: true });
    seen[scheme] = { png, ...(await tab.evaluate(look)) };
  }
  seen.text = await tab.evaluate(() => document.body.innerText);
  seen.keyboard = await tabs(tab);
  // Still in the dark scheme: paper is white.
  await tab.emulateMediaType("print");
  seen.print = await tab.evaluate(look);
  const pdf = await tab.pdf({ path: join(folder, "page.pdf"), preferCSSPageSize: true, printBackground: true });
  const boxes = Buffer.from(pdf).toString("latin1").matchAll(/\/MediaBox \[([^\]]+)\]/g);
  seen.print.sheets = [...boxes].map((box) => box[1]);
  await tab.emulateMediaType("screen");
  await tab.setViewport({ width: 390, height: 800 });
  seen.overflowOnPhone = await tab.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  return seen;
}

/** In the page: its background, and the text with the lowest contrast by WCAG 2.1. */
function look() {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const channel = (value) => (value <= 10 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([red, green, blue]) =>
    0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
  const background = (element) => {
    const own = numbers(getComputedStyle(element).backgroundColor);
    if (own[3] !== 0) return own;
    return element.parentElement ? background(element.parentElement) : [255, 255, 255];
  };
  let lowest = { ratio: 21 };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || element.localName === "title") continue;
    const style = getComputedStyle(element);
    const colour = numbers(element.ownerSVGElement ? style.fill : style.color);
    const [dark, light] = [luminance(colour), luminance(background(element))].sort((one, other) => one - other);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < lowest.ratio) lowest = { ratio, text: texts.currentNode.data };
  }
  return { background: numbers(getComputedStyle(document.body).backgroundColor), lowest };
}

/** What the key Tab reaches in turn, and whether an outline shows it. */
async function tabs(tab) {
  const reached = [];
  for (let press = 0; press < 100; press += 1) {
    await tab.keyboard.press("Tab");
    const [name, outlined] = await tab.evaluate(() => {
      const element = document.activeElement;
      const name = element.getAttribute("href") ?? element.getAttribute("aria-labelledby") ?? element.localName;
      return [name, getComputedStyle(element).outlineStyle !== "none"];
    });
    if (name === "body" || reached.some((other) => other.name === name)) break;
    reached.push({ name, outlined });
  }
  return reached;
}

/** The number of colours of a picture, and the share of the most frequent one. */
async function colours(png) {
  const tab = await browser.newPage();
  return tab.evaluate(async (source) => {
    const picture = new Image();
    picture.src = `data:image/png;base64,${source}`;
    await picture.decode();
    const canvas = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
    canvas.drawImage(picture, 0, 0);
    const pixels = new Uint32Array(canvas.getImageData(0, 0, picture.width, picture.height).data.buffer);
    const counts = new Map();
    for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
    const share = Math.max(...counts.values()) / pixels.length;
    return { width: picture.width, height: picture.height, colours: counts.size, share };
  }, Buffer.from(png).toString("base64"));
}
