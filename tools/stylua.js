// Runs StyLua's WebAssembly build, which has no command line. tools/stylua describes the arguments.
const fs = require("fs");
const path = require("path");

const [library, settings, ...names] = process.argv.slice(2);
const stylua = require(library);

// Reads stylua.toml, which has one `key = value` on each line.
function config() {
  const made = stylua.Config.new();
  const enums = {
    syntax: stylua.LuaVersion,
    indent_type: stylua.IndentType,
    quote_style: stylua.QuoteStyle,
    call_parentheses: stylua.CallParenType,
    collapse_simple_statement: stylua.CollapseSimpleStatement,
  };
  for (const line of fs.readFileSync(settings, "utf8").split("\n").filter((text) => text.trim())) {
    const [, key, value] = line.match(/^(\w+) = (.+)$/);
    made[key] = enums[key] ? enums[key][JSON.parse(value)] : JSON.parse(value);
    if (made[key] === undefined) throw new Error(`${settings}: unknown setting: ${line}`);
  }
  return made;
}

// Formats until nothing changes: the first pass may leave a line that the second can join.
function format(text) {
  // StyLua's own check of its output fails on LuaJIT's numbers (1ULL), so it stays off.
  const once = stylua.formatCode(text, config(), undefined, stylua.OutputVerification.None);
  return once === text ? text : format(once);
}

function* files(name) {
  if (!fs.statSync(name).isDirectory()) return yield name;
  for (const entry of fs.readdirSync(name).sort()) {
    const inner = path.join(name, entry);
    if (entry.endsWith(".lua") || fs.statSync(inner).isDirectory()) yield* files(inner);
  }
}

const check = names[0] === "--check";
let different = 0;
for (const name of names.slice(check ? 1 : 0)) {
  for (const file of files(name)) {
    const text = fs.readFileSync(file, "utf8");
    const formatted = format(text);
    if (formatted === text) continue;
    different += 1;
    if (check) console.log(`${file}: the layout differs from StyLua's; tools/lint --format writes it`);
    else fs.writeFileSync(file, formatted);
  }
}
process.exit(check && different > 0 ? 1 : 0);
