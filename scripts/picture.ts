/**
 * Draws docs/terminal.svg: the commands in the picture of README, typed into a real terminal (tmux), and its output.
 */
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, ROOT, waitUntil } from "../test/home.ts";

const COLUMNS = 88;
const ROWS = 34;
const CELL = { width: 8.4, height: 18, pad: 14 };
const COMMANDS = [
  "ipcctl start loop.py",
  "ipcctl start http_service.py --name web --instances 2 -e PORT=0",
  "ipcctl start flaky_job.py --restart always",
  "ipcctl status",
  "kill -9 $(pgrep -n ipcctl-daemon)           # the workers do not notice",
  "ipcctl status",
  "ipcctl logs loop -n 3",
];
const COLORS = ["#6e7681", "#ff7b72", "#7ee787", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#c9d1d9"];

await using home = new Home();
const folder = join(home.dir, "workers");
mkdirSync(folder);
for (const name of ["loop.py", "http_service.py", "flaky_job.py"])
  cpSync(join(ROOT, "examples", name), join(folder, name));
const socket = join(home.dir, "tmux.sock");
const tmux = (...args: string[]): string =>
  Bun.spawnSync(["tmux", "-f", "/dev/null", "-S", socket, ...args], {
    cwd: folder,
    env: {
      PATH: `${join(ROOT, "bin")}:${home.env.PATH}`,
      IPCCTL_HOME: home.env.IPCCTL_HOME!,
      TERM: "screen-256color",
      HOME: folder,
    },
  }).stdout.toString();
tmux(
  "new-session",
  "-d",
  "-x",
  `${COLUMNS}`,
  "-y",
  `${ROWS}`,
  `bash --noprofile --rcfile ${home.script("rc", "PS1='$ '\n")}`,
);
const prompts = (): number =>
  tmux("capture-pane", "-p")
    .split("\n")
    .filter((line) => line.startsWith("$")).length;
await waitUntil(() => prompts() === 1, "a prompt");
for (const [index, command] of COMMANDS.entries()) {
  tmux("send-keys", "-l", command);
  tmux("send-keys", "Enter");
  await waitUntil(() => prompts() === index + 2, command);
  if (index === 2) await Bun.sleep(3000); // to show an uptime
}
const screen = tmux("capture-pane", "-e", "-p").trimEnd().split("\n").slice(0, -1);
tmux("kill-server");
writeFileSync(join(ROOT, "docs/terminal.svg"), draw(screen));

function draw(lines: readonly string[]): string {
  const width = Math.round(COLUMNS * CELL.width + 2 * CELL.pad);
  const height = lines.length * CELL.height + 2 * CELL.pad;
  const rows = lines.map((line, index) => {
    const y = CELL.pad + (index + 0.75) * CELL.height;
    return `<text x="${CELL.pad}" y="${y}" xml:space="preserve">${spans(line)}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="ipcctl in a terminal">
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<g font-family="ui-monospace, SFMono-Regular, Menlo, 'DejaVu Sans Mono', monospace" font-size="14" fill="#c9d1d9">
${rows.join("\n")}
</g>
</svg>
`;
}

/** Converts SGR sequences to spans with their colours and bold text. */
function spans(line: string): string {
  const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  let style = line.startsWith("$ ") ? ' fill="#f0f6fc" font-weight="bold"' : "";
  return line
    .split(/\u001b\[([\d;]*)m/)
    .map((part, index) => {
      if (index % 2 === 0) return part === "" ? "" : `<tspan${style}>${escape(part)}</tspan>`;
      const codes = part.split(";").map(Number);
      const color = codes.find((code) => code >= 30 && code <= 37) ?? codes.find((code) => code >= 90 && code <= 97);
      style = codes.every((code) => code === 0)
        ? ""
        : `${color === undefined ? "" : ` fill="${COLORS[color % 10]}"`}${codes.includes(1) ? ' font-weight="bold"' : ""}${codes.includes(2) ? ' fill="#8b949e"' : ""}`;
      return "";
    })
    .join("");
}
