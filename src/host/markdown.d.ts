/** Texts that are part of the program: `import text from "./a.md" with { type: "text" }`. */
declare module "*.md" {
  const text: string;
  export default text;
}
