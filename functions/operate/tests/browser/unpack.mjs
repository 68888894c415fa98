// Unpacks the browser, its libraries and its font beside the installed packages: node unpack.mjs
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const folder = process.cwd();
// The package unpacks into the folder for temporary files.
process.env.TMPDIR = folder;
const entry = createRequire(join(folder, "package.json")).resolve("@sparticuz/chromium");
const { inflate } = await import(pathToFileURL(entry));
const archives = join(dirname(entry), "..", "bin");
for (const archive of ["chromium.br", "al2023.tar.br", "fonts.tar.br"]) {
  await inflate(join(archives, archive));
}
// The package's own configuration names folders of Lambda.
const configuration = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>${join(folder, "fonts")}</dir>
  <cachedir>${join(folder, "fonts", "cache")}</cachedir>
</fontconfig>
`;
await writeFile(join(folder, "fonts", "fonts.conf"), configuration);
